// Package client connects to a server and handles its errors: every error carries the words retry
// and effect, which say what to do.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Connect prepares a connection to WALSER_SERVER.
func Connect() (*grpc.ClientConn, error) {
	address := cmp.Or(os.Getenv("WALSER_SERVER"), "127.0.0.1:7460")
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Call makes a call that is safe to repeat, such as a write with a producer session. Without a
// session, a write must not be repeated unless its effect is "none".
func Call[Req, Res any](method func(context.Context, Req, ...grpc.CallOption) (Res, error), request Req) (Res, error) {
	var response Res
	err := retry(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		response, err = method(ctx, request)
		return err
	})
	return response, err
}

// Stream yields the responses of a stream up to its end. If the stream breaks, it is opened again
// with the request as it is then.
func Stream[Req, Res any](
	method func(context.Context, Req, ...grpc.CallOption) (grpc.ServerStreamingClient[Res], error), request Req,
) iter.Seq2[*Res, error] {
	return func(yield func(*Res, error) bool) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		err := retry(func() error {
			stream, err := method(ctx, request)
			for err == nil {
				var response *Res
				if response, err = stream.Recv(); err == nil && !yield(response, nil) {
					return nil
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// retry repeats a call for as long as the server advises so.
func retry(call func() error) error {
	delay := 100 * time.Millisecond
	for {
		started := time.Now()
		err := call()
		if err == nil {
			return nil
		}
		reason, advice, effect := words(err)
		if effect == "applied" {
			return nil // An earlier attempt succeeded.
		}
		err = fmt.Errorf("%s: %s (retry=%s, effect=%s)", reason, status.Convert(err).Message(), advice, effect)
		if advice != "backoff" && advice != "reopen" {
			return err
		}
		log.Print("retrying: ", err)
		if time.Since(started) > 10*time.Second {
			delay = 100 * time.Millisecond
		}
		time.Sleep(delay)
		delay = min(2*delay, 5*time.Second)
	}
}

// words returns reason, retry and effect of an error.
func words(err error) (reason, retry, effect string) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason, info.Metadata["retry"], info.Metadata["effect"]
		}
	}
	// The error is gRPC's own.
	switch code := status.Code(err); code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Unknown, codes.Internal:
		return code.String(), "backoff", "maybe" // The connection broke, or the deadline passed.
	default:
		return code.String(), "never", "maybe"
	}
}
