import com.google.protobuf.ByteString;
import dev.walser.v1.GetTopicRequest;
import dev.walser.v1.InitProducerRequest;
import dev.walser.v1.ProduceRequest;
import dev.walser.v1.ProducerServiceGrpc;
import dev.walser.v1.Record;
import dev.walser.v1.TopicServiceGrpc;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;

/**
 * Writes every line of standard input to a topic, exactly once: Producer TOPIC [--keyed]. With --keyed a
 * line is KEY:VALUE, and its key says to which partition it goes; else it goes to partition 0.
 */
public final class Producer {
  private static final Client client = new Client();

  public static void main(String[] args) throws Exception {
    boolean keyed = Arrays.asList(args).contains("--keyed");
    int count = !keyed ? 1 : client.retry(channel -> Trace.traced(TopicServiceGrpc.newBlockingStub(channel))
        .getTopic(GetTopicRequest.newBuilder().setName(args[0]).build())).getTopic().getPartitionCount();
    var session = client.retry(channel -> Trace.traced(ProducerServiceGrpc.newBlockingStub(channel))
        .initProducer(InitProducerRequest.getDefaultInstance())).getProducer();
    var requests = new HashMap<Integer, ProduceRequest.Builder>(); // The next request of each partition.
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (var line = lines.readLine(); line != null; line = lines.readLine()) {
      int at = keyed ? line.indexOf(':') : -1;
      var key = ByteString.copyFromUtf8(line.substring(0, Math.max(at, 0)));
      var record = Record.newBuilder().setValue(ByteString.copyFromUtf8(line.substring(at + 1)));
      var request = requests.computeIfAbsent(Partition.of(key, count), number -> ProduceRequest.newBuilder()
          .setTopic(args[0]).setPartition(number).setProducer(session));
      request.addRecords(at < 0 ? record : record.setKey(key));
      if (request.getRecordsCount() == 100) {
        write(request);
      }
    }
    for (var request : requests.values()) {
      write(request);
    }
    int written = requests.values().stream().mapToInt(ProduceRequest.Builder::getBaseSequence).sum();
    System.out.println(written + " records written");
    client.close();
  }

  private static void write(ProduceRequest.Builder request) throws Exception {
    if (request.getRecordsCount() > 0) {
      client.retry(channel -> Trace.traced(ProducerServiceGrpc.newBlockingStub(channel)).produce(request.build()));
      request.setBaseSequence(request.getBaseSequence() + request.getRecordsCount()).clearRecords();
    }
  }
}
