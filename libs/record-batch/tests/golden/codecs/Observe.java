// Reads every stream of generate.py as kafka-clients reads the records of a batch, until its end.
//
// java -cp 'libs/*' Observe.java < streams.tsv > java.tsv
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.record.internal.CompressionType;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.utils.internals.BufferSupplier;

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.HexFormat;

public class Observe {
    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null; ) {
            String[] fields = line.split("\t", -1);
            String seen;
            try {
                seen = "read\t" + HexFormat.of().formatHex(read(fields[0], HexFormat.of().parseHex(fields[2])));
            } catch (Throwable error) {
                Throwable cause = error;
                while (cause.getCause() != null) cause = cause.getCause();
                seen = "refused\t" + (cause.getClass().getSimpleName() + ": " + cause.getMessage()).replaceAll("\\s+", " ");
            }
            System.out.println(fields[0] + "\t" + fields[1] + "\t" + seen);
        }
    }

    private static byte[] read(String codec, byte[] stream) throws Exception {
        Compression compression = Compression.of(CompressionType.forName(codec)).build();
        ByteBuffer buffer = ByteBuffer.wrap(stream);
        ByteArrayOutputStream plain = new ByteArrayOutputStream();
        InputStream input = compression.wrapForInput(buffer, RecordBatch.MAGIC_VALUE_V2, BufferSupplier.NO_CACHING);
        // One byte at a time at first and then in pieces, as records are read: varints, then keys and values.
        byte[] piece = new byte[100];
        while (true) {
            int one = input.read();
            if (one < 0) return plain.toByteArray();
            plain.write(one);
            int count = input.read(piece);
            if (count < 0) return plain.toByteArray();
            plain.write(piece, 0, count);
        }
    }
}
