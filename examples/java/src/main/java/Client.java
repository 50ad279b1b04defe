import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.function.Supplier;

/**
 * Connects to a server and handles its errors: every error carries the words {@code retry} and
 * {@code effect}, which say what to do.
 */
final class Client {
  /** Prepares a connection to WALSER_SERVER. */
  static ManagedChannel connect() {
    var address = System.getenv().getOrDefault("WALSER_SERVER", "127.0.0.1:7460");
    return Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
  }

  /**
   * Makes a call that is safe to repeat: a read, or a write with a producer session. Without a
   * session, a write must not be repeated unless its effect is "none".
   */
  static <T> T retry(Supplier<T> call) throws InterruptedException {
    for (long delay = 100; ; delay = Math.min(2 * delay, 5_000)) {
      long started = System.nanoTime();
      try {
        return call.get();
      } catch (StatusRuntimeException error) {
        Words words = words(error);
        if (words.effect.equals("applied")) {
          return null; // An earlier attempt succeeded.
        }
        String problem = words.reason + ": " + error.getStatus().getDescription()
            + " (retry=" + words.retry + ", effect=" + words.effect + ")";
        if (!words.retry.equals("backoff") && !words.retry.equals("reopen")) {
          System.err.println(problem);
          System.exit(1);
        }
        System.err.println("retrying: " + problem);
        if (System.nanoTime() - started > 10_000_000_000L) {
          delay = 100;
        }
        Thread.sleep(delay);
      }
    }
  }

  private record Words(String reason, String retry, String effect) {}

  private static Words words(StatusRuntimeException error) {
    for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        try {
          ErrorInfo info = detail.unpack(ErrorInfo.class);
          return new Words(info.getReason(), info.getMetadataOrThrow("retry"), info.getMetadataOrThrow("effect"));
        } catch (InvalidProtocolBufferException malformed) {
          throw new IllegalStateException(malformed);
        }
      }
    }
    // The error is gRPC's own. With these codes the connection broke, or the deadline passed.
    var code = error.getStatus().getCode();
    var retry = switch (code) {
      case UNAVAILABLE, DEADLINE_EXCEEDED, UNKNOWN, INTERNAL -> "backoff";
      default -> "never";
    };
    return new Words(code.name(), retry, "maybe");
  }

  private Client() {}
}
