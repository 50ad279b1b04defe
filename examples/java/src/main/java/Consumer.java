import dev.walser.v1.ConsumeJoin;
import dev.walser.v1.ConsumeRequest;
import dev.walser.v1.ConsumeResponse;
import dev.walser.v1.GroupServiceGrpc;
import dev.walser.v1.RecordChunk;
import io.grpc.stub.StreamObserver;

/** Prints {@code partition offset value [traceparent]} of what a member gets, and commits it: Consumer GROUP TOPIC. */
public final class Consumer {
  private static boolean stopping;
  private static StreamObserver<ConsumeRequest> requests;

  public static void main(String[] args) throws Exception {
    var client = new Client();
    var join = ConsumeJoin.newBuilder().setGroup(args[0]).addTopics(args[1]);
    var main = Thread.currentThread();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(main)));
    client.retry(channel -> Client.talk(GroupServiceGrpc.newStub(channel)::consume, stream -> begin(stream, join),
        response -> take(response, join)), join::clearResumeToken); // It is of no use any more: join as a new member.
    client.close();
  }

  private static synchronized void begin(StreamObserver<ConsumeRequest> stream, ConsumeJoin.Builder join) {
    requests = stream;
    requests.onNext(ConsumeRequest.newBuilder().setJoin(join).build());
    if (stopping) requests.onCompleted();
  }

  private static synchronized void take(ConsumeResponse response, ConsumeJoin.Builder join) {
    switch (response.getEventCase()) {
      case JOINED -> join.setResumeToken(response.getJoined().getResumeToken()); // It keeps its partitions.
      case RECORDS -> process(response.getRecords());
      case PARTITION_ERROR -> // Such as a commit of a partition that has moved.
          System.err.println(response.getPartitionError().getError().getMessage());
      default -> {}
    }
  }

  private static void process(RecordChunk chunk) {
    if (stopping) return; // Whoever is next reads it.
    for (var record : chunk.getRecordsList()) {
      System.out.println(chunk.getPartition() + " " + record.getOffset() + " " + record.getValue().toStringUtf8()
          + Trace.continued(record.getHeadersList()));
    }
    var request = ConsumeRequest.newBuilder();
    request.getCommitBuilder().addOffsetsBuilder()
        .setOffset(chunk.getNextOffset()).setLeaderEpoch(chunk.getLeaderEpoch())
        .getTopicPartitionBuilder().setTopic(chunk.getTopic()).setPartition(chunk.getPartition());
    requests.onNext(request.build());
  }

  private static void stop(Thread main) {
    synchronized (Consumer.class) { // What is being processed is still committed.
      stopping = true;
      if (requests != null && main.isAlive()) requests.onCompleted(); // The member leaves, and its stream ends.
    }
    try { main.join(10_000); } catch (InterruptedException end) { return; }
  }
}
