// Golden Kafka record batches (magic 2), written by the official Java client.
//
// Run in this folder (Java 17 or newer, Maven):
//   mvn -q dependency:copy-dependencies
//   java -Dfile.encoding=UTF-8 -cp 'target/dependency/*' GenerateGolden.java
//     writes *.bin, ../murmur2.json and ../build/java.json
//   java -Dfile.encoding=UTF-8 -cp 'target/dependency/*' GenerateGolden.java parse
//     reads every .bin here and in ../kafka-python, writes ../build/java-parsed.json
// (If this fails inside Java's launcher with "IllegalArgumentException: 0 > -7", a Kafka exception without a stack
// trace is behind it; compile with javac and run the class to see it.)
// ../crosscheck.py then compares both implementations and writes ../manifest.json.
//
// What is written to ../build/java.json comes from the inputs below, not from reading the batches back.
// ../kafka-python/generate.py has the same cases; keep the two in step.
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.DefaultRecordBatch;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MemoryRecordsBuilder;
import org.apache.kafka.common.record.internal.MutableRecordBatch;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.utils.Utils;
import org.apache.kafka.common.utils.internals.AppInfoParser;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;

import static java.nio.charset.StandardCharsets.UTF_8;

public class GenerateGolden {
    static final long T0 = 1_700_000_000_000L;
    static final String[] CODECS = {"none", "gzip", "snappy", "lz4", "zstd"};

    record Rec(long timestamp, byte[] key, byte[] value, Header... headers) { }

    /** One batch: its header fields with the builder's defaults, and its records. */
    static class Case {
        final String name;
        List<Rec> records = new ArrayList<>();
        String codec = "none";
        long baseOffset = 0, producerId = RecordBatch.NO_PRODUCER_ID, logAppendTime = RecordBatch.NO_TIMESTAMP;
        int leaderEpoch = RecordBatch.NO_PARTITION_LEADER_EPOCH, baseSequence = RecordBatch.NO_SEQUENCE;
        short producerEpoch = RecordBatch.NO_PRODUCER_EPOCH;
        boolean transactional = false;
        ControlRecordType marker = null;
        TimestampType timestampType = TimestampType.CREATE_TIME;

        Case(String name, List<Rec> records) {
            this.name = name;
            this.records.addAll(records);
        }

        MemoryRecords build() {
            if (marker != null)
                return MemoryRecords.withEndTransactionMarker(baseOffset, records.get(0).timestamp, leaderEpoch,
                    producerId, producerEpoch, new EndTransactionMarker(marker, COORDINATOR_EPOCH));
            try (MemoryRecordsBuilder b = MemoryRecords.builder(ByteBuffer.allocate(1 << 18), RecordBatch.MAGIC_VALUE_V2,
                    Compression.of(codec).build(), timestampType, baseOffset, logAppendTime,
                    producerId, producerEpoch, baseSequence, transactional, leaderEpoch)) {
                for (Rec r : records)
                    b.append(r.timestamp, r.key, r.value, r.headers);
                return b.build();
            }
        }

        String json() {
            boolean lat = timestampType == TimestampType.LOG_APPEND_TIME;
            long max = lat ? logAppendTime : records.stream().mapToLong(Rec::timestamp).max().getAsLong();
            List<String> recs = new ArrayList<>();
            for (int i = 0; i < records.size(); i++) {
                Rec r = records.get(i);
                recs.add(recordJson(baseOffset + i, lat ? logAppendTime : r.timestamp, r.key, r.value, r.headers));
            }
            return batchJson("java/" + name + ".bin", codec, baseOffset, leaderEpoch, producerId, producerEpoch, baseSequence,
                marker != null, transactional, timestampType.name, records.get(0).timestamp, max, recs);
        }
    }

    static final int COORDINATOR_EPOCH = 5;

    static List<Rec> small() {
        return List.of(
            new Rec(T0, b("key-0"), b("value-0 ".repeat(16))),
            new Rec(T0 + 1, null, b("a value without a key ".repeat(4))),
            new Rec(T0 + 2, b("tombstone"), null),
            new Rec(T0 + 3, b(""), b("")),
            new Rec(T0 + 4, b("key-4"), b("a value with headers ".repeat(4)),
                h("trace", new byte[] {0, (byte) 0xff, 0x10, (byte) 0x80}),
                h("trace", b("second value of the same header")),
                h("null-value", null),
                h("empty-value", b(""))));
    }

    static List<Rec> large() {
        String fill = "0123456789abcdefghijklmnopqrstuvwxyz".repeat(3);
        List<Rec> records = new ArrayList<>();
        for (int i = 0; i < 1000; i++)
            records.add(new Rec(T0 + i, b(String.format("key-%02d", i % 50)),
                b((String.format("record-%04d:", i) + fill).substring(0, 100))));
        return records;
    }

    static List<Case> cases() {
        List<Case> cases = new ArrayList<>();
        for (String codec : CODECS) {
            Case c = new Case("small-" + codec, small());
            c.codec = codec;
            cases.add(c);
        }
        for (String codec : CODECS) {
            Case c = new Case("large-" + codec, large());
            c.codec = codec;
            cases.add(c);
        }

        for (String name : new String[] {"idempotent", "transactional"}) {
            Case c = new Case(name, small());
            c.producerId = 4711;
            c.producerEpoch = 3;
            c.baseSequence = 42;
            c.transactional = name.equals("transactional");
            cases.add(c);
        }

        // A marker is one record: key = version 0 (int16), type (int16; 0 abort, 1 commit),
        // value = version 0 (int16), coordinator epoch (int32).
        for (ControlRecordType type : new ControlRecordType[] {ControlRecordType.COMMIT, ControlRecordType.ABORT}) {
            byte commit = (byte) (type == ControlRecordType.COMMIT ? 1 : 0);
            Case c = new Case("control-" + type.name().toLowerCase(),
                List.of(new Rec(T0, new byte[] {0, 0, 0, commit}, new byte[] {0, 0, 0, 0, 0, COORDINATOR_EPOCH})));
            c.marker = type;
            c.baseOffset = 5;
            c.leaderEpoch = 7;
            c.producerId = 4711;
            c.producerEpoch = 3;
            c.transactional = true;
            cases.add(c);
        }

        // The records keep the producer's time deltas, but every record's time is the batch's max timestamp.
        Case lat = new Case("log-append-time", small());
        lat.timestampType = TimestampType.LOG_APPEND_TIME;
        lat.logAppendTime = T0 + 123_456;
        cases.add(lat);

        long[] times = {T0, T0 - 1, T0 - 3_600_000, T0 + 64, T0 - 86_400_000L * 365};
        List<Rec> backwards = new ArrayList<>();
        for (int i = 0; i < times.length; i++)
            backwards.add(new Rec(times[i], b("key-" + i), b("value-" + i)));
        cases.add(new Case("timestamps-backwards", backwards));

        Case base = new Case("base-offset", small());
        base.baseOffset = 1_000_000;
        base.leaderEpoch = 7;
        cases.add(base);

        List<Rec> edges = new ArrayList<>();
        for (int n : new int[] {63, 64, 8191, 8192})
            edges.add(new Rec(T0, b("k".repeat(n)), b("key of " + n + " bytes")));
        cases.add(new Case("varint-edges", edges));

        cases.add(new Case("unicode-headers", List.of(new Rec(T0, b("ключ"), b("値"),
            h("заголовок", b("кириллица")),
            h("ヘッダー", b("日本語")),
            h("🔑", b("outside the BMP")),
            h("\u00e9", b("composed")),
            h("e\u0301", b("decomposed")),
            h("", b("empty name"))))));
        return cases;
    }

    public static void main(String[] args) throws IOException {
        if ("é".length() != 1)
            throw new IllegalStateException("this source was not read as UTF-8: add -Dfile.encoding=UTF-8");
        Files.createDirectories(Path.of("../build"));
        if (args.length > 0 && args[0].equals("parse")) {
            List<String> parsed = new ArrayList<>();
            for (String dir : new String[] {"java", "kafka-python"})
                try (var files = Files.list(Path.of("..", dir))) {
                    for (Path p : files.filter(f -> f.toString().endsWith(".bin")).sorted().toList())
                        parsed.add(parse(dir + "/" + p.getFileName(), Files.readAllBytes(p)));
                }
            writeArray("../build/java-parsed.json", parsed);
            return;
        }
        List<String> entries = new ArrayList<>();
        for (Case c : cases()) {
            ByteBuffer buf = c.build().buffer();
            byte[] bytes = new byte[buf.remaining()];
            buf.get(bytes);
            Files.write(Path.of(c.name + ".bin"), bytes);
            entries.add(c.json());
        }
        writeArray("../build/java.json", entries);
        writeArray("../murmur2.json", murmur2());
    }

    static String parse(String file, byte[] bytes) {
        var batches = MemoryRecords.readableRecords(ByteBuffer.wrap(bytes)).batches().iterator();
        MutableRecordBatch batch = batches.next();
        if (batches.hasNext() || batch.sizeInBytes() != bytes.length || batch.magic() != 2)
            throw new IllegalStateException(file + ": not exactly one batch of magic 2");
        batch.ensureValid(); // checks the CRC
        List<String> recs = new ArrayList<>();
        for (Record r : batch) {
            r.ensureValid();
            recs.add(recordJson(r.offset(), r.timestamp(), Utils.toNullableArray(r.key()), Utils.toNullableArray(r.value()),
                r.headers()));
        }
        if (batch.lastOffset() - batch.baseOffset() + 1 != recs.size())
            throw new IllegalStateException(file + ": last offset delta");
        return batchJson(file, batch.compressionType().name, batch.baseOffset(), batch.partitionLeaderEpoch(),
            batch.producerId(), batch.producerEpoch(), batch.baseSequence(), batch.isControlBatch(), batch.isTransactional(),
            batch.timestampType().name, ((DefaultRecordBatch) batch).baseTimestamp(), batch.maxTimestamp(), recs);
    }

    // --- murmur2 ---

    static List<String> murmur2() {
        // The vectors of Kafka's own UtilsTest.testMurmur2.
        Object[][] known = {{"21", -973932308}, {"foobar", -790332482}, {"a-little-bit-long-string", -985981536},
            {"a-little-bit-longer-string", -1486304829},
            {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971}, {"abc", 479470107}};
        List<byte[]> keys = new ArrayList<>();
        for (Object[] k : known) {
            if (Utils.murmur2(b((String) k[0])) != (Integer) k[1])
                throw new IllegalStateException("murmur2 of " + k[0]);
            keys.add(b((String) k[0]));
        }
        for (String s : new String[] {"", "a", "ab", "abcd", "abcde", "abcdef", "abcdefg", "abcdefgh", "0", "1", "key-0",
            "user-42", "customer-1234567890", "é", "e\u0301", "ключ", "日本語のキー", "🔑🔒", "k".repeat(63), "k".repeat(64),
            "k".repeat(255), "0123456789".repeat(100)})
            keys.add(b(s));
        // Bytes with the high bit set: a port that sign-extends them hashes these wrongly.
        for (String hex : new String[] {"00", "80", "ff", "0000", "ff80", "80ff7f", "00000000", "ffffffff", "ffffffffff",
            "fffefdfcfbfaf9", "0c2a38186d6f"})
            keys.add(HexFormat.of().parseHex(hex));
        List<String> out = new ArrayList<>();
        for (byte[] key : keys) {
            int hash = Utils.murmur2(key);
            out.add(String.format("{\"key_hex\": %s, \"murmur2_signed_int32\": %d, \"partition_of_6\": %d, \"partition_of_12\": %d}",
                hex(key), hash, Utils.toPositive(hash) % 6, Utils.toPositive(hash) % 12));
        }
        return out;
    }

    // --- JSON and small helpers ---

    static String batchJson(String file, String codec, long baseOffset, int leaderEpoch, long producerId, int producerEpoch,
            int baseSequence, boolean control, boolean transactional, String timestampType, long baseTimestamp,
            long maxTimestamp, List<String> records) {
        return String.format("{\"file\": \"%s\", \"implementation\": \"kafka-clients %s (Java)\", \"codec\": \"%s\", "
                + "\"base_offset\": %d, \"leader_epoch\": %d, \"producer_id\": %d, \"producer_epoch\": %d, "
                + "\"base_sequence\": %d, \"is_control\": %b, \"is_transactional\": %b, \"timestamp_type\": \"%s\", "
                + "\"base_timestamp\": %d, \"max_timestamp\": %d, \"record_count\": %d, \"records\": [\n  %s]}",
            file, AppInfoParser.getVersion(), codec, baseOffset, leaderEpoch, producerId, producerEpoch, baseSequence, control,
            transactional, timestampType, baseTimestamp, maxTimestamp, records.size(), String.join(",\n  ", records));
    }

    static String recordJson(long offset, long timestamp, byte[] key, byte[] value, Header[] headers) {
        List<String> hs = new ArrayList<>();
        for (Header h : headers)
            hs.add("[\"" + h.key() + "\", " + hex(h.value()) + "]"); // no name here needs escaping
        return String.format("{\"offset\": %d, \"timestamp\": %d, \"key\": %s, \"value\": %s, \"headers\": [%s]}",
            offset, timestamp, hex(key), hex(value), String.join(", ", hs));
    }

    static void writeArray(String file, List<String> items) throws IOException {
        Files.writeString(Path.of(file), "[\n" + String.join(",\n", items) + "\n]\n");
    }

    static String hex(byte[] bytes) {
        return bytes == null ? "null" : "\"" + HexFormat.of().formatHex(bytes) + "\"";
    }

    static byte[] b(String s) {
        return s.getBytes(UTF_8);
    }

    static Header h(String name, byte[] value) {
        return new RecordHeader(name, value);
    }
}
