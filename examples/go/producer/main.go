// Producer writes every line of standard input to a topic, exactly once: producer TOPIC [--keyed]
//
// With --keyed a line is KEY:VALUE, and its key says to which partition it goes; else it goes to partition 0.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"log"
	"os"
	"slices"

	"example.com/client/client"
	v1 "example.com/client/gen/walser/v1"
)

func main() {
	c, name, keyed := client.Connect(), os.Args[1], slices.Contains(os.Args, "--keyed")
	count := int32(1)
	if keyed {
		get := &v1.GetTopicRequest{Name: name}
		count = client.Call(c, v1.NewTopicServiceClient, v1.TopicServiceClient.GetTopic, get).Topic.PartitionCount
	}
	session := client.Call(
		c, v1.NewProducerServiceClient, v1.ProducerServiceClient.InitProducer, &v1.InitProducerRequest{}).Producer
	requests, written := map[int32]*v1.ProduceRequest{}, 0 // The next request of each partition.
	write := func(request *v1.ProduceRequest) {
		client.Call(c, v1.NewProducerServiceClient, v1.ProducerServiceClient.Produce, request)
		written += len(request.Records)
		request.BaseSequence, request.Records = request.BaseSequence+int32(len(request.Records)), nil
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		record := &v1.Record{Value: slices.Clone(lines.Bytes())}
		if at := bytes.IndexByte(record.Value, ':'); keyed && at >= 0 {
			record = &v1.Record{Key: record.Value[:at], Value: record.Value[at+1:]}
		}
		partition := client.Partition(record.Key, count)
		if requests[partition] == nil {
			requests[partition] = &v1.ProduceRequest{Topic: name, Partition: &partition, Producer: session}
		}
		request := requests[partition]
		if request.Records = append(request.Records, record); len(request.Records) == 100 {
			write(request)
		}
	}
	for _, request := range requests {
		if len(request.Records) > 0 {
			write(request)
		}
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(written, "records written")
}
