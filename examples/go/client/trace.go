package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"

	v1 "example.com/client/gen/walser/v1"
	"google.golang.org/grpc/metadata"
)

var traceparent = regexp.MustCompile(`^00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})$`)

// Child returns the traceparent of a new span: of the trace of parent, or of a new trace without one.
// See https://www.w3.org/TR/trace-context/.
func Child(parent string) string {
	trace, flags := fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()), "01"
	if known := traceparent.FindStringSubmatch(parent); known != nil {
		trace, flags = known[1], known[2]
	}
	return fmt.Sprintf("00-%s-%016x-%s", trace, rand.Uint64(), flags)
}

// Continued returns the traceparent with which the work on a record goes on, behind a space: "" if the record has none.
func Continued(headers []*v1.Header) string {
	for _, header := range headers {
		if header.Key == "traceparent" {
			return " " + Child(string(header.Value))
		}
	}
	return ""
}

// trace returns the context of a call with a traceparent. Records that it writes get it as a header,
// so that who reads them goes on with the trace.
func trace() context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "traceparent", Child(os.Getenv("TRACEPARENT")))
}
