import com.google.protobuf.ByteString;
import dev.walser.v1.InitProducerRequest;
import dev.walser.v1.ProduceRequest;
import dev.walser.v1.ProducerServiceGrpc;
import dev.walser.v1.ProducerServiceGrpc.ProducerServiceBlockingStub;
import dev.walser.v1.Record;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.TimeUnit;

/** Writes every line of standard input to a topic, exactly once: Producer TOPIC. */
public final class Producer {
  public static void main(String[] args) throws Exception {
    var channel = Client.connect();
    var service = ProducerServiceGrpc.newBlockingStub(channel);
    var session = Client.retry(() -> service.withDeadlineAfter(10, TimeUnit.SECONDS)
        .initProducer(InitProducerRequest.getDefaultInstance())).getProducer();
    var request = ProduceRequest.newBuilder().setTopic(args[0]).setPartition(0).setProducer(session);
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (var line = lines.readLine(); line != null; line = lines.readLine()) {
      request.addRecords(Record.newBuilder().setValue(ByteString.copyFromUtf8(line)));
      if (request.getRecordsCount() == 100) {
        write(service, request);
      }
    }
    if (request.getRecordsCount() > 0) {
      write(service, request);
    }
    System.out.println(request.getBaseSequence() + " records written");
    channel.shutdown().awaitTermination(1, TimeUnit.SECONDS);
  }

  private static void write(ProducerServiceBlockingStub service, ProduceRequest.Builder request) throws Exception {
    Client.retry(() -> service.withDeadlineAfter(10, TimeUnit.SECONDS).produce(request.build()));
    request.setBaseSequence(request.getBaseSequence() + request.getRecordsCount()).clearRecords();
  }
}
