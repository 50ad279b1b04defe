// The loads of `walser bench`, for Apache Kafka: the same options, the same JSON, its own Java client.
//
//   KafkaLoad create|describe|alter|delete|produce|e2e|consume --server HOST:PORT --topic NAME [--option value ...] [client.property=value ...]

import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.SplittableRandom;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import org.HdrHistogram.ConcurrentHistogram;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class KafkaLoad {
    private static final long SECOND = 1_000_000_000L;
    private static final Map<String, String> options = new HashMap<>();
    private static final Properties properties = new Properties();

    public static void main(String[] arguments) throws Exception {
        for (int i = 1; i < arguments.length; i++) {
            if (arguments[i].startsWith("--")) {
                options.put(arguments[i].substring(2), arguments[++i]);
            } else {
                int equals = arguments[i].indexOf('=');
                properties.put(arguments[i].substring(0, equals), arguments[i].substring(equals + 1));
            }
        }
        switch (arguments[0]) {
            case "create" -> create();
            case "describe" -> describe();
            case "alter" -> alter();
            case "delete" -> delete();
            case "produce" -> produce();
            case "e2e" -> endToEnd();
            case "consume" -> consume();
            default -> throw new IllegalArgumentException(arguments[0]);
        }
        System.out.flush();
        System.exit(0); // what is left in send buffers does not count
    }

    private static String option(String name, String otherwise) {
        return options.getOrDefault(name, otherwise);
    }

    private static int number(String name, int otherwise) {
        return Integer.parseInt(option(name, "" + otherwise));
    }

    private static Admin admin() {
        return Admin.create(Map.of("bootstrap.servers", option("server", "")));
    }

    private static void create() throws Exception {
        Map<String, String> config = new HashMap<>();
        properties.forEach((key, value) -> config.put((String) key, (String) value));
        NewTopic topic = new NewTopic(option("topic", ""), number("partitions", 1), (short) number("replicas", 1)).configs(config);
        try (Admin admin = admin()) {
            admin.createTopics(List.of(topic)).all().get();
        }
    }

    /** Of the first partition: who leads, and how many replicas are in sync. */
    private static void describe() throws Exception {
        try (Admin admin = admin()) {
            String topic = option("topic", "");
            var first = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().get(0);
            int leader = first.leader() == null ? -1 : first.leader().id();
            System.out.printf("{\"leader\":%d,\"in_sync\":%d}%n", leader, first.isr().size());
        }
    }

    private static void alter() throws Exception {
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, option("topic", ""));
        List<AlterConfigOp> changes = new ArrayList<>();
        properties.forEach((key, value) ->
            changes.add(new AlterConfigOp(new ConfigEntry((String) key, (String) value), AlterConfigOp.OpType.SET)));
        try (Admin admin = admin()) {
            admin.incrementalAlterConfigs(Map.of(topic, changes)).all().get();
        }
    }

    private static void delete() throws Exception {
        try (Admin admin = admin()) {
            admin.deleteTopics(List.of(option("topic", ""))).all().get();
        }
    }

    private static KafkaProducer<byte[], byte[]> producer() {
        Properties all = new Properties();
        all.put("bootstrap.servers", option("server", ""));
        all.putAll(properties);
        return new KafkaProducer<>(all, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private static KafkaConsumer<byte[], byte[]> consumer(boolean fromStart) {
        Properties all = new Properties();
        all.put("bootstrap.servers", option("server", ""));
        all.put("enable.auto.commit", "false");
        KafkaConsumer<byte[], byte[]> consumer =
            new KafkaConsumer<>(all, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        List<TopicPartition> partitions = new ArrayList<>();
        for (PartitionInfo found : consumer.partitionsFor(option("topic", ""))) {
            partitions.add(new TopicPartition(found.topic(), found.partition()));
        }
        consumer.assign(partitions);
        if (fromStart) {
            consumer.seekToBeginning(partitions);
        } else {
            consumer.seekToEnd(partitions);
        }
        partitions.forEach(consumer::position);
        return consumer;
    }

    private static byte[][] values(int size) {
        SplittableRandom random = new SplittableRandom(7);
        byte[][] values = new byte[1024][size];
        for (byte[] value : values) {
            random.nextBytes(value);
        }
        return values;
    }

    /** As fast as it goes, or by a schedule (--rate): then latency counts from the time at which a record was due. */
    private static void produce() throws Exception {
        int size = number("size", 1024), producers = number("producers", 1), rate = number("rate", 0);
        int keys = number("keys", 0), records = number("records", Integer.MAX_VALUE);
        byte[][] values = values(size);
        ConcurrentHistogram latency = new ConcurrentHistogram(120 * SECOND, 3);
        AtomicLong acknowledged = new AtomicLong(), failed = new AtomicLong();
        long start = System.nanoTime(), measured = start + number("warm-up", 4) * SECOND;
        long deadline = measured + number("duration", 10) * SECOND, end = deadline;
        List<Thread> threads = new ArrayList<>();
        for (int k = 0; k < producers; k++) {
            int id = k;
            KafkaProducer<byte[], byte[]> producer = producer();
            double step = rate > 0 ? (double) SECOND * producers / rate : 0;
            Thread thread = new Thread(() -> {
                for (int i = 0; i < records && System.nanoTime() < deadline; i++) {
                    long due = System.nanoTime();
                    if (step > 0) {
                        due = start + (long) ((i + id / (double) producers) * step);
                        for (long now = System.nanoTime(); now < due && now < deadline; now = System.nanoTime()) {
                            LockSupport.parkNanos(due - now);
                        }
                    }
                    long since = due;
                    byte[] key = keys > 0 ? "%016d".formatted(i % keys).getBytes() : null;
                    producer.send(new ProducerRecord<>(option("topic", ""), key, values[i & 1023]), (where, error) -> {
                        long now = System.nanoTime();
                        if (error != null) {
                            failed.incrementAndGet();
                        } else if (now >= measured && now < deadline) {
                            acknowledged.incrementAndGet();
                            latency.recordValue(Math.min(120 * SECOND, now - since));
                        }
                    });
                }
                producer.flush();
            });
            thread.setDaemon(true);
            thread.start();
            threads.add(thread);
        }
        if (records < Integer.MAX_VALUE) {
            for (Thread thread : threads) {
                thread.join();
            }
            end = System.nanoTime();
        }
        Thread.sleep(Math.max(0, (measured - System.nanoTime()) / 1_000_000));
        long cpu = serverJiffies();
        Thread.sleep(Math.max(0, (end - System.nanoTime()) / 1_000_000));
        if (failed.get() > 0) {
            throw new IllegalStateException(failed + " records failed");
        }
        report(acknowledged.get(), acknowledged.get() * size, (end - measured) / 1e9, latency, serverJiffies() - cpu);
    }

    /** One record in flight: from sending it to having read it. */
    private static void endToEnd() throws Exception {
        byte[] value = values(number("size", 1024))[0];
        ConcurrentHistogram latency = new ConcurrentHistogram(120 * SECOND, 3);
        SynchronousQueue<Long> read = new SynchronousQueue<>();
        KafkaConsumer<byte[], byte[]> consumer = consumer(false);
        Thread reader = new Thread(() -> {
            try {
                while (true) {
                    for (var record : consumer.poll(Duration.ofMillis(200))) {
                        read.offer(ByteBuffer.wrap(record.value()).getLong(), 5, TimeUnit.SECONDS);
                    }
                }
            } catch (InterruptedException end) {
                Thread.currentThread().interrupt();
            }
        });
        reader.setDaemon(true);
        reader.start();
        long measured = System.nanoTime() + number("warm-up", 4) * SECOND;
        long end = measured + number("duration", 10) * SECOND, count = 0, cpu = 0;
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            for (long sent = System.nanoTime(); sent < end; sent = System.nanoTime()) {
                ByteBuffer.wrap(value).putLong(sent);
                producer.send(new ProducerRecord<>(option("topic", ""), 0, null, value));
                if (read.poll(10, TimeUnit.SECONDS) == null) {
                    throw new IllegalStateException("no record within 10 s");
                }
                if (sent >= measured) {
                    cpu = count == 0 ? serverJiffies() : cpu;
                    count++;
                    latency.recordValue(System.nanoTime() - sent);
                }
            }
            report(count, count * value.length, (end - measured) / 1e9, latency, serverJiffies() - cpu);
        }
    }

    /** Reads what is there. */
    private static void consume() throws Exception {
        long wanted = number("records", 4_000_000), count = 0, bytes = 0;
        KafkaConsumer<byte[], byte[]> consumer = consumer(true);
        long start = System.nanoTime(), last = start, cpu = serverJiffies();
        while (count < wanted && System.nanoTime() - last < 10 * SECOND) {
            for (var record : consumer.poll(Duration.ofMillis(500))) {
                count++;
                bytes += record.value().length;
                last = System.nanoTime();
            }
        }
        double seconds = (System.nanoTime() - start) / 1e9;
        report(count, bytes, seconds, new ConcurrentHistogram(SECOND, 3), serverJiffies() - cpu);
    }

    /** CPU time that the servers have used, in hundredths of a second; those that have ended do not count. */
    private static long serverJiffies() throws Exception {
        long sum = 0;
        for (String pid : option("server-pid", "").split(",")) {
            Path file = Path.of("/proc/" + pid + "/stat");
            if (Files.exists(file)) {
                String stat = Files.readString(file);
                String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
                sum += Long.parseLong(fields[11]) + Long.parseLong(fields[12]);
            }
        }
        return sum;
    }

    private static void report(long records, long bytes, double seconds, ConcurrentHistogram latency, long jiffies) {
        System.out.printf(
            "{\"mb_per_s\":%.3f,\"records_per_s\":%.1f,\"records\":%d,\"bytes\":%d,\"seconds\":%.3f,"
                + "\"server_cpu_seconds\":%.2f,\"latency_us\":{\"p50\":%d,\"p99\":%d,\"p999\":%d,\"max\":%d}}%n",
            bytes / 1e6 / seconds, records / seconds, records, bytes, seconds, jiffies / 100.0,
            latency.getValueAtPercentile(50) / 1000, latency.getValueAtPercentile(99) / 1000,
            latency.getValueAtPercentile(99.9) / 1000, latency.getMaxValue() / 1000);
    }
}
