package client

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	v1 "example.com/client/gen/walser/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// A server whose first two calls fail with a code.
type failing struct {
	v1.UnimplementedTopicServiceServer
	v1.UnimplementedProducerServiceServer
	code  codes.Code
	calls atomic.Int32
}

func (s *failing) attempt() error {
	if s.calls.Add(1) <= 2 {
		return status.Error(s.code, "not yet")
	}
	return nil
}

func (s *failing) GetTopic(context.Context, *v1.GetTopicRequest) (*v1.GetTopicResponse, error) {
	return &v1.GetTopicResponse{}, s.attempt()
}

func (s *failing) Produce(context.Context, *v1.ProduceRequest) (*v1.ProduceResponse, error) {
	return &v1.ProduceResponse{}, s.attempt()
}

// serviceConfig reads what WALSER_SERVICE_CONFIG names: proto/service-config.json.
func serviceConfig(t *testing.T) []byte {
	path := os.Getenv("WALSER_SERVICE_CONFIG")
	if path == "" {
		t.Skip("WALSER_SERVICE_CONFIG is not set")
	}
	config, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// connect serves, and connects with the configuration.
func connect(t *testing.T, service *failing) *grpc.ClientConn {
	config := serviceConfig(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	v1.RegisterTopicServiceServer(server, service)
	v1.RegisterProducerServiceServer(server, service)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(string(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestUnavailableIsRetriedWhereThatIsSafeAndNothingElse(t *testing.T) {
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		service := &failing{code: code}
		conn := connect(t, service)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		_, err := v1.NewTopicServiceClient(conn).GetTopic(ctx, &v1.GetTopicRequest{})
		retried := code == codes.Unavailable
		if calls := service.calls.Load(); retried && (err != nil || calls != 3) || !retried && calls != 1 {
			t.Errorf("GetTopic, %s: %d calls, then %v", code, calls, err)
		}
		// A write may have happened when the connection broke: only the client knows whether a repetition doubles it.
		service.calls.Store(0)
		_, err = v1.NewProducerServiceClient(conn).Produce(ctx, &v1.ProduceRequest{})
		if calls := service.calls.Load(); calls != 1 || status.Code(err) != code {
			t.Errorf("Produce, %s: %d calls, then %v", code, calls, err)
		}
		cancel()
	}
}

// A name that the contract does not have would be passed over silently.
func TestWhatTheConfigurationNamesExists(t *testing.T) {
	var config struct {
		MethodConfig []struct {
			Name []struct{ Service, Method string }
		}
	}
	if err := json.Unmarshal(serviceConfig(t), &config); err != nil {
		t.Fatal(err)
	}
	for _, name := range config.MethodConfig[0].Name {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name.Service))
		if err != nil {
			t.Fatal(name.Service, err)
		}
		methods := found.(protoreflect.ServiceDescriptor).Methods()
		if name.Method != "" && methods.ByName(protoreflect.Name(name.Method)) == nil {
			t.Error(name.Service, "has no", name.Method)
		}
	}
}
