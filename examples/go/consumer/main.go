// Consumer prints `partition offset value [traceparent]` of what a member gets, and commits it: consumer GROUP TOPIC
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"example.com/client/client"
	v1 "example.com/client/gen/walser/v1"
	"google.golang.org/grpc"
)

func main() {
	stopping, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	join, busy := &v1.ConsumeJoin{Group: os.Args[1], Topics: os.Args[2:3]}, &sync.Mutex{}
	client.Connect().Retry(func(conn *grpc.ClientConn) error {
		stream, err := v1.NewGroupServiceClient(conn).Consume(context.Background())
		if err != nil || stopping.Err() != nil {
			return err
		}
		stream.Send(&v1.ConsumeRequest{Message: &v1.ConsumeRequest_Join{Join: join}})
		defer context.AfterFunc(stopping, func() {
			busy.Lock() // What is being processed is still committed.
			defer busy.Unlock()
			stream.CloseSend() // The member leaves, and the stream ends.
		})()
		for {
			response, err := stream.Recv()
			if err != nil {
				return err
			}
			busy.Lock()
			switch event := response.Event.(type) {
			case *v1.ConsumeResponse_Joined:
				join.ResumeToken = event.Joined.ResumeToken // With it the member keeps its partitions.
			case *v1.ConsumeResponse_PartitionError: // Such as a commit of a partition that has moved.
				log.Print(event.PartitionError.Error.Message)
			case *v1.ConsumeResponse_Records:
				if stopping.Err() == nil { // Else whoever is next reads them.
					stream.Send(&v1.ConsumeRequest{Message: &v1.ConsumeRequest_Commit{Commit: process(event.Records)}})
				}
			}
			busy.Unlock()
		}
	}, func() { join.ResumeToken = "" }) // It is of no use any more: join as a new member.
}

func process(chunk *v1.RecordChunk) *v1.ConsumeCommit {
	for _, record := range chunk.Records {
		fmt.Printf("%d %d %s%s\n", chunk.Partition, record.Offset, record.Value, client.Continued(record.Headers))
	}
	place := &v1.TopicPartition{Topic: chunk.Topic, Partition: chunk.Partition}
	done := &v1.OffsetCommit{TopicPartition: place, Offset: chunk.NextOffset, LeaderEpoch: &chunk.LeaderEpoch}
	return &v1.ConsumeCommit{Offsets: []*v1.OffsetCommit{done}}
}
