import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Function;

/**
 * Has a connection to one of several servers, and handles their errors: every error carries the words
 * {@code retry} and {@code effect}, which say what to do.
 */
final class Client {
  /** Something to do with a connection. */
  interface Call<T> {
    T on(ManagedChannel channel) throws Exception;
  }

  static {
    Thread.setDefaultUncaughtExceptionHandler((thread, error) ->
        System.err.println(error instanceof IllegalStateException ? error.getMessage() : error));
  }

  private final List<String> servers =
      new ArrayList<>(Arrays.asList(System.getenv().getOrDefault("WALSER_SERVER", "127.0.0.1:7460").split(",")));
  private ManagedChannel channel = connect();
  private long delay = 100; // In milliseconds: how long it waited the last time,
  private long paused = System.nanoTime(); // and when, in nanoseconds.

  /** Prepares a connection to the first server. Pings find out that its machine is gone. */
  private ManagedChannel connect() {
    return Grpc.newChannelBuilder(servers.get(0), InsecureChannelCredentials.create())
        .keepAliveTime(20, TimeUnit.SECONDS).keepAliveTimeout(5, TimeUnit.SECONDS).build();
  }

  /**
   * Makes a call that is safe to repeat: a read, a membership, or a write with a producer session.
   * Without a session, a write must not be repeated unless its effect is "none".
   */
  <T> T retry(Call<T> call) throws Exception {
    return retry(call, null);
  }

  /** The same, where {@code restart} redoes what comes before the call. */
  <T> T retry(Call<T> call, Runnable restart) throws Exception {
    while (true) {
      try {
        return call.on(channel);
      } catch (StatusException | StatusRuntimeException error) {
        Words words = words(error);
        if (words.effect.equals("applied")) return null; // An earlier attempt succeeded.
        boolean again = words.retry.equals("backoff") || words.retry.equals("reopen");
        boolean anew = words.retry.equals("restart") && restart != null;
        if (!again && !anew) throw new IllegalStateException(words.problem(error));
        if (anew) restart.run();
        pause(words.problem(error));
      }
    }
  }

  /** Opens a stream in both directions, gives what is received to {@code take}, and returns when it has ended. */
  static <Q, R> Void talk(Function<StreamObserver<R>, StreamObserver<Q>> method, Consumer<StreamObserver<Q>> begin,
      Consumer<R> take) throws InterruptedException {
    var end = new CompletableFuture<Void>();
    begin.accept(method.apply(new StreamObserver<>() {
      @Override public void onNext(R response) { take.accept(response); }
      @Override public void onError(Throwable error) { end.completeExceptionally(error); }
      @Override public void onCompleted() { end.complete(null); }
    }));
    try {
      return end.get();
    } catch (ExecutionException failed) {
      throw (StatusRuntimeException) failed.getCause();
    }
  }

  /** Waits, each time longer unless all was well for 5 s, and goes to the next server. */
  private void pause(String problem) throws InterruptedException {
    System.err.println("retrying: " + problem);
    boolean well = System.nanoTime() - paused > 5_000_000_000L;
    delay = well ? 100 : Math.min(2 * delay, 5_000);
    Thread.sleep((long) (delay * (0.8 + 0.4 * Math.random())));
    channel.shutdownNow();
    Collections.rotate(servers, -1);
    channel = connect();
    paused = System.nanoTime();
  }

  void close() throws InterruptedException {
    channel.shutdown().awaitTermination(1, TimeUnit.SECONDS);
  }

  private record Words(String reason, String retry, String effect) {
    String problem(Exception error) {
      String description = Status.fromThrowable(error).getDescription();
      return reason + ": " + description + " (retry=" + retry + ", effect=" + effect + ")";
    }
  }

  private static Words words(Exception error) throws InvalidProtocolBufferException {
    for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        ErrorInfo info = detail.unpack(ErrorInfo.class);
        return new Words(info.getReason(), info.getMetadataOrThrow("retry"), info.getMetadataOrThrow("effect"));
      }
    }
    // The error is gRPC's own. With these codes the connection broke, or the deadline passed.
    var code = Status.fromThrowable(error).getCode();
    return switch (code) {
      case UNAVAILABLE, DEADLINE_EXCEEDED, UNKNOWN, INTERNAL -> new Words(code.name(), "backoff", "maybe");
      default -> new Words(code.name(), "never", "maybe");
    };
  }
}
