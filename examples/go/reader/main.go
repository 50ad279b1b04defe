// Reader prints `offset value` of every record of a topic, up to its end: reader TOPIC [--follow]
package main

import (
	"context"
	"fmt"
	"log"
	"maps"
	"os"
	"slices"

	"example.com/client/client"
	v1 "example.com/client/gen/walser/v1"
	"google.golang.org/grpc"
)

func main() {
	target := &v1.ReadTarget{Topic: os.Args[1]}
	if !slices.Contains(os.Args, "--follow") {
		target.End = &v1.Position{At: &v1.Position_Bound{Bound: v1.Bound_BOUND_LATEST}}
	}
	options := &v1.ReadOptions{OutOfRange: v1.OutOfRangePolicy_OUT_OF_RANGE_POLICY_EARLIEST}
	request := &v1.ReadRequest{Targets: []*v1.ReadTarget{target}, Options: options}
	resume := map[int32]*v1.PartitionResume{} // By partition. Store it to resume in another process.
	client.Connect().Retry(func(conn *grpc.ClientConn) error {
		target.Resume = slices.Collect(maps.Values(resume))
		stream, err := v1.NewConsumerServiceClient(conn).Read(context.Background(), request)
		for err == nil {
			var response *v1.ReadResponse
			if response, err = stream.Recv(); err == nil {
				take(response, resume)
			}
		}
		return err // io.EOF: everything that was asked for has been read.
	}, nil)
}

func take(response *v1.ReadResponse, resume map[int32]*v1.PartitionResume) {
	switch event := response.Event.(type) {
	case *v1.ReadResponse_Chunk:
		chunk := event.Chunk
		for _, record := range chunk.Records {
			fmt.Printf("%d %s\n", record.Offset, record.Value)
		}
		resume[chunk.Partition] = &v1.PartitionResume{
			Partition: chunk.Partition, NextOffset: chunk.NextOffset, LeaderEpoch: &chunk.LeaderEpoch}
	case *v1.ReadResponse_OffsetReset:
		log.Print(event.OffsetReset.SkippedCount, " records are gone")
	case *v1.ReadResponse_PartitionError: // The server continues with the other partitions.
		log.Print(event.PartitionError.Error.Message)
	case *v1.ReadResponse_Drain: // The stream ends next, with the advice to reopen it.
		log.Print("the server is stopping")
	}
}
