// Reader prints `offset value` of every record of a topic, up to its end: reader TOPIC [--follow]
package main

import (
	"fmt"
	"log"
	"maps"
	"os"
	"slices"

	"example.com/client/client"
	v1 "example.com/client/gen/walser/v1"
)

func main() {
	conn, err := client.Connect()
	if err != nil {
		log.Fatal(err)
	}
	target := &v1.ReadTarget{Topic: os.Args[1]}
	if !slices.Contains(os.Args, "--follow") {
		target.End = &v1.Position{At: &v1.Position_Bound{Bound: v1.Bound_BOUND_LATEST}}
	}
	options := &v1.ReadOptions{OutOfRange: v1.OutOfRangePolicy_OUT_OF_RANGE_POLICY_EARLIEST}
	request := &v1.ReadRequest{Targets: []*v1.ReadTarget{target}, Options: options}
	resume := map[int32]*v1.PartitionResume{} // By partition. Store it to resume in another process.
	for response, err := range client.Stream(v1.NewConsumerServiceClient(conn).Read, request) {
		if err != nil {
			log.Fatal(err)
		}
		switch event := response.Event.(type) {
		case *v1.ReadResponse_Chunk:
			chunk := event.Chunk
			for _, record := range chunk.Records {
				fmt.Printf("%d %s\n", record.Offset, record.Value)
			}
			resume[chunk.Partition] = &v1.PartitionResume{
				Partition: chunk.Partition, NextOffset: chunk.NextOffset, LeaderEpoch: &chunk.LeaderEpoch}
			target.Resume = slices.Collect(maps.Values(resume))
		case *v1.ReadResponse_OffsetReset:
			log.Print(event.OffsetReset.SkippedCount, " records are gone")
		case *v1.ReadResponse_PartitionError: // The server continues with the other partitions.
			log.Print(event.PartitionError.Error.Message)
		case *v1.ReadResponse_Drain: // The stream ends next, with the advice to reopen it.
			log.Print("the server is stopping")
		}
	}
}
