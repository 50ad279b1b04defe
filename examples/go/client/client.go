// Package client connects to a server and handles its errors: every error carries the words retry
// and effect, which say what to do.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const firstDelay, maxDelay = 100 * time.Millisecond, 5 * time.Second

// A Client has a connection to one of several servers.
type Client struct {
	servers []string
	conn    *grpc.ClientConn
	delay   time.Duration // How long it waited the last time,
	paused  time.Time     // and when.
}

// Connect prepares a connection to the first server of WALSER_SERVER.
func Connect() *Client {
	servers := cmp.Or(os.Getenv("WALSER_SERVER"), "127.0.0.1:7460")
	c := &Client{servers: strings.Split(servers, ","), delay: firstDelay, paused: time.Now()}
	c.connect()
	return c
}

// connect prepares a connection. Pings find out that the server's machine is gone.
func (c *Client) connect() {
	var err error
	pings := keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}
	c.conn, err = grpc.NewClient(c.servers[0],
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithKeepaliveParams(pings))
	if err != nil {
		log.Fatal(err)
	}
}

// Call makes a call with a deadline and a traceparent, by Retry, and returns its response.
func Call[Stub, Req, Res any](c *Client, stub func(grpc.ClientConnInterface) Stub,
	method func(Stub, context.Context, Req, ...grpc.CallOption) (Res, error), request Req) Res {
	var response Res
	c.Retry(func(conn *grpc.ClientConn) (err error) {
		ctx, cancel := context.WithTimeout(trace(), 10*time.Second)
		defer cancel()
		response, err = method(stub(conn), ctx, request)
		return err
	}, nil)
	return response
}

// Retry makes a call until it succeeds, as long as the server advises to repeat it; else it ends the program. The
// call must be safe to repeat: a read, a membership, or a write with a producer session. Without a session, a
// write must not be repeated unless its effect is "none". restart redoes what comes before the call, if that can be.
func (c *Client) Retry(call func(*grpc.ClientConn) error, restart func()) {
	for {
		err := call(c.conn)
		advice, effect, problem := words(err)
		switch {
		case err == nil || errors.Is(err, io.EOF) || effect == "applied": // By an earlier attempt.
			return
		case advice == "restart" && restart != nil:
			restart()
		case advice != "backoff" && advice != "reopen":
			log.Fatal(problem)
		}
		c.pause(problem)
	}
}

// pause waits, each time longer unless all was well for 5 s, and goes to the next server.
func (c *Client) pause(problem string) {
	log.Print("retrying: ", problem)
	c.delay = min(2*c.delay, maxDelay)
	if time.Since(c.paused) > maxDelay {
		c.delay = firstDelay
	}
	time.Sleep(time.Duration(float64(c.delay) * (0.8 + 0.4*rand.Float64())))
	c.conn.Close()
	c.servers = append(c.servers[1:], c.servers[0])
	c.connect()
	c.paused = time.Now()
}

// words returns retry and effect of an error, and a sentence with its reason.
func words(err error) (retry, effect, problem string) {
	// One without these words is gRPC's own.
	reason, retry, effect := status.Code(err).String(), "never", "maybe"
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Unknown, codes.Internal:
		retry = "backoff" // The connection broke, or the deadline passed.
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason, retry, effect = info.Reason, info.Metadata["retry"], info.Metadata["effect"]
		}
	}
	return retry, effect, fmt.Sprintf("%s: %s (retry=%s, effect=%s)", reason, status.Convert(err).Message(), retry, effect)
}
