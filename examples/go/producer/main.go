// Producer writes every line of standard input to a topic, exactly once: producer TOPIC
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"

	"example.com/client/client"
	v1 "example.com/client/gen/walser/v1"
)

func main() {
	conn, err := client.Connect()
	if err != nil {
		log.Fatal(err)
	}
	service := v1.NewProducerServiceClient(conn)
	session, err := client.Call(service.InitProducer, &v1.InitProducerRequest{})
	if err != nil {
		log.Fatal(err)
	}
	request := &v1.ProduceRequest{Topic: os.Args[1], Partition: new(int32), Producer: session.Producer}
	write := func() {
		if _, err := client.Call(service.Produce, request); err != nil {
			log.Fatal(err)
		}
		request.BaseSequence += int32(len(request.Records))
		request.Records = nil
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		request.Records = append(request.Records, &v1.Record{Value: []byte(lines.Text())})
		if len(request.Records) == 100 {
			write()
		}
	}
	if len(request.Records) > 0 {
		write()
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(request.BaseSequence, "records written")
}
