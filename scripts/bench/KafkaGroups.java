// Members of groups on Apache Kafka, for scripts/bench/groups.py: kinds, options and lines of walser_members.py.
//
//   KafkaGroups fresh|member|commits|idle --server HOST:PORT --group NAME --topic NAME
//       [--option value ...] [client.property=value ...]

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class KafkaGroups {
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
            case "fresh" -> fresh();
            case "member" -> member();
            case "commits" -> commits();
            case "idle" -> idle();
            default -> throw new IllegalArgumentException(arguments[0]);
        }
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }

    private static int number(String name, int otherwise) {
        return Integer.parseInt(options.getOrDefault(name, "" + otherwise));
    }

    /** System.nanoTime is the monotonic clock, as in Python. */
    private static synchronized void say(String what) {
        System.out.println(System.nanoTime() + " " + what);
        System.out.flush();
    }

    private static KafkaConsumer<byte[], byte[]> consumer(String group) {
        Properties all = new Properties();
        all.put("bootstrap.servers", options.get("server"));
        all.put("group.id", group);
        all.put("enable.auto.commit", "false");
        all.put("auto.offset.reset", "earliest");
        all.putAll(properties);
        return new KafkaConsumer<>(all, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    /** The first ones are those of a virtual machine that has just started; they are not told. */
    private static void fresh() {
        int warm = 2;
        for (int i = 0; i < number("times", 10) + warm; i++) {
            long begun = System.nanoTime();
            try (var consumer = consumer(options.get("group") + "-" + i)) {
                consumer.subscribe(List.of(options.get("topic")));
                while (consumer.poll(Duration.ofMillis(500)).isEmpty()) {
                }
                double first = (System.nanoTime() - begun) / 1e9;
                if (i >= warm) {
                    say("first " + first);
                }
            }
        }
    }

    private static void member() {
        var consumer = consumer(options.get("group"));
        Thread end = new Thread(() -> {
            try {
                System.in.readAllBytes();
            } catch (java.io.IOException gone) {
                // Leave as well.
            }
            consumer.wakeup();
        });
        end.setDaemon(true);
        end.start();
        say("join");
        consumer.subscribe(List.of(options.get("topic")));
        try (consumer) {
            while (true) {
                var records = consumer.poll(Duration.ofMillis(500));
                for (TopicPartition partition : records.partitions()) {
                    say("records " + partition.partition() + " " + records.records(partition).size());
                }
                if (!records.isEmpty()) {
                    consumer.commitAsync((offsets, error) -> { });
                }
            }
        } catch (WakeupException leave) {
            // Closing it leaves the group.
        }
        say("gone");
    }

    /** One member, and the thread that it lives in. */
    private static final class Member implements ConsumerRebalanceListener {
        final KafkaConsumer<byte[], byte[]> consumer;
        final List<Long> latencies = new ArrayList<>();
        final CountDownLatch holdsOne = new CountDownLatch(1);
        volatile long begin = Long.MAX_VALUE, end = Long.MAX_VALUE;
        int inFlight;

        Member(String group) {
            consumer = consumer(group);
            consumer.subscribe(List.of(options.get("topic")), this);
        }

        public void onPartitionsRevoked(Collection<TopicPartition> gone) {
        }

        public void onPartitionsAssigned(Collection<TopicPartition> found) {
            look();
        }

        void look() {
            if (consumer.assignment().size() == number("each", 1)) {
                holdsOne.countDown();
            }
        }

        void start(Runnable run) {
            Thread thread = new Thread(run);
            thread.setDaemon(true);
            thread.start();
        }

        void hold() {
            while (begin == Long.MAX_VALUE) {
                consumer.poll(Duration.ofMillis(100));
                look();
            }
        }

        void answered(long since, Exception error) {
            inFlight--;
            long now = System.nanoTime();
            if (error != null) {
                say("failed " + error);
            } else if (now >= begin && now < end) {
                latencies.add(now - since);
            }
        }

        void commit() {
            hold();
            TopicPartition partition = consumer.assignment().iterator().next();
            int most = number("in-flight", 1);
            for (long offset = 1; System.nanoTime() < end; offset++) {
                var offsets = Map.of(partition, new OffsetAndMetadata(offset));
                long since = System.nanoTime();
                inFlight++;
                if (most == 1) {
                    consumer.commitSync(offsets);
                    answered(since, null);
                    continue;
                }
                consumer.commitAsync(offsets, (told, error) -> answered(since, error));
                while (inFlight >= most && System.nanoTime() < end) {
                    consumer.poll(Duration.ofMillis(1));
                }
            }
        }
    }

    private static void commits() throws Exception {
        List<Member> members = new ArrayList<>();
        for (int i = 0; i < number("members", 1); i++) {
            Member member = new Member(options.get("group"));
            member.start(member::commit);
            members.add(member);
        }
        for (Member member : members) {
            member.holdsOne.await();
        }
        say("ready");
        System.in.read();
        long begin = System.nanoTime() + number("warm-up", 2) * SECOND, end = begin + number("seconds", 5) * SECOND;
        for (Member member : members) {
            member.end = end;
            member.begin = begin;
        }
        System.in.read();
        long[] all = members.stream().flatMap(member -> List.copyOf(member.latencies).stream())
            .mapToLong(latency -> latency).sorted().toArray();
        StringBuilder some = new StringBuilder();
        for (int i = 0; i < all.length; i += Math.max(1, all.length / 1000)) {
            some.append(some.isEmpty() ? "" : ",").append(all[i] / 1e9);
        }
        say("done {\"commits\":" + all.length + ",\"latencies\":[" + some + "]}");
    }

    private static void idle() throws Exception {
        int count = number("members", 1), groups = number("groups", 1);
        say("ready");
        System.in.read();
        List<Member> members = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            Member member = new Member(options.get("group") + "-" + i % groups);
            member.start(member::hold);
            members.add(member);
        }
        for (Member member : members) {
            member.holdsOne.await();
        }
        say("joined");
        say("assigned");
        System.in.read();
        say("done {\"broken\":0}");
    }
}
