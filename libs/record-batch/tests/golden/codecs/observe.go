// Reads every stream of generate.py with franz-go, or with sarama: go run . franz-go < streams.tsv > franz-go.tsv
//
// Sarama does not export its decoder: README.md says how to run with a copy that does.
package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

var codecs = map[string]int8{"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		stream, _ := hex.DecodeString(fields[2])
		plain, err := read(os.Args[1], codecs[fields[0]], stream)
		seen := "read\t" + hex.EncodeToString(plain)
		if err != nil {
			seen = "refused\t" + strings.Join(strings.Fields(err.Error()), " ")
		}
		fmt.Println(fields[0] + "\t" + fields[1] + "\t" + seen)
	}
}

func read(client string, codec int8, stream []byte) (plain []byte, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("panic: %v", panicked)
		}
	}()
	if client == "sarama" {
		return sarama.Decompress(sarama.CompressionCodec(codec), stream)
	}
	return kgo.DefaultDecompressor().Decompress(stream, kgo.CompressionCodecType(codec))
}
