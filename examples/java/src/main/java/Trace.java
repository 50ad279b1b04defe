import dev.walser.v1.Header;
import io.grpc.Metadata;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.MetadataUtils;
import java.util.List;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** W3C Trace Context, without a library: https://www.w3.org/TR/trace-context/. */
final class Trace {
  private static final Pattern TRACEPARENT = Pattern.compile("00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})");
  private static final Metadata.Key<String> KEY = Metadata.Key.of("traceparent", Metadata.ASCII_STRING_MARSHALLER);

  /** Returns the traceparent of a new span: of the trace of a parent, or of a new trace without one. */
  static String child(String parent) {
    Matcher known = TRACEPARENT.matcher(parent == null ? "" : parent);
    return known.matches() ? "00-" + known.group(1) + "-" + random() + "-" + known.group(2)
        : "00-" + random() + random() + "-" + random() + "-01";
  }

  /** Returns the traceparent with which the work on a record goes on, behind a space: "" if the record has none. */
  static String continued(List<Header> headers) {
    return headers.stream().filter(header -> header.getKey().equals("traceparent")).findFirst()
        .map(header -> " " + child(header.getValue().toStringUtf8())).orElse("");
  }

  private static String random() {
    return String.format("%016x", ThreadLocalRandom.current().nextLong());
  }

  /**
   * Gives the calls of a stub a deadline and a traceparent. Records that are written get it as a header,
   * so that who reads them goes on with the trace.
   */
  static <S extends AbstractStub<S>> S traced(S stub) {
    var headers = new Metadata();
    headers.put(KEY, child(System.getenv("TRACEPARENT")));
    return stub.withDeadlineAfter(10, TimeUnit.SECONDS)
        .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  private Trace() {}
}
