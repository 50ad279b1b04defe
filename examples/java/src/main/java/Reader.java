import dev.walser.v1.Bound;
import dev.walser.v1.ConsumerServiceGrpc;
import dev.walser.v1.OutOfRangePolicy;
import dev.walser.v1.PartitionResume;
import dev.walser.v1.ReadOptions;
import dev.walser.v1.ReadRequest;
import dev.walser.v1.ReadTarget;
import java.util.Arrays;
import java.util.HashMap;

/** Prints {@code offset value} of every record of a topic, up to its end: Reader TOPIC [--follow]. */
public final class Reader {
  public static void main(String[] args) throws Exception {
    var client = new Client();
    var target = ReadTarget.newBuilder().setTopic(args[0]);
    if (!Arrays.asList(args).contains("--follow")) {
      target.getEndBuilder().setBound(Bound.BOUND_LATEST);
    }
    var options = ReadOptions.newBuilder().setOutOfRange(OutOfRangePolicy.OUT_OF_RANGE_POLICY_EARLIEST);
    var resume = new HashMap<Integer, PartitionResume>(); // Store it to resume in another process.
    client.retry(channel -> {
      target.clearResume().addAllResume(resume.values());
      var request = ReadRequest.newBuilder().addTargets(target).setOptions(options).build();
      ConsumerServiceGrpc.newBlockingStub(channel).read(request).forEachRemaining(response -> {
        switch (response.getEventCase()) {
          case CHUNK -> {
            var chunk = response.getChunk();
            for (var record : chunk.getRecordsList()) {
              System.out.println(record.getOffset() + " " + record.getValue().toStringUtf8());
            }
            resume.put(chunk.getPartition(), PartitionResume.newBuilder().setPartition(chunk.getPartition())
                .setNextOffset(chunk.getNextOffset()).setLeaderEpoch(chunk.getLeaderEpoch()).build());
          }
          case OFFSET_RESET -> System.err.println(response.getOffsetReset().getSkippedCount() + " records are gone");
          case PARTITION_ERROR -> // The server continues with the other partitions.
              System.err.println(response.getPartitionError().getError().getMessage());
          case DRAIN -> System.err.println("the server is stopping"); // Next: an error with the advice to reopen.
          default -> {}
        }
      });
      return true; // Everything that was asked for has been read.
    });
    client.close();
  }
}
