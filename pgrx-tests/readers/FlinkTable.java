import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.HexFormat;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.types.Row;

/**
 * Reads a topic as a table of Flink SQL, up to the topic's present end, and prints the rows that are in the table then:
 * values between bars, NULL where there is none.
 *
 * Arguments: brokers, topic, columns as Flink's CREATE TABLE has them, options of the table beside those of the connector.
 */
public class FlinkTable {
    private static final DateTimeFormatter TIME = DateTimeFormatter.ofPattern("HH:mm:ss");
    private static final DateTimeFormatter TIMESTAMP = DateTimeFormatter.ofPattern("yyyy-MM-dd HH:mm:ss.SSSSSS");

    public static void main(String[] arguments) throws Exception {
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        TableEnvironment flink = TableEnvironment.create(EnvironmentSettings.inStreamingMode());
        flink.getConfig().set("parallelism.default", "1");
        flink.executeSql("CREATE TABLE t (" + arguments[2] + ") WITH ("
            + "'connector' = 'kafka', 'properties.bootstrap.servers' = '" + arguments[0] + "', 'topic' = '" + arguments[1] + "', "
            + "'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset', "
            + "'format' = 'debezium-json'" + arguments[3] + ")");
        Map<String, Integer> rows = new TreeMap<>();
        try (var changes = flink.executeSql("SELECT * FROM t").collect()) {
            while (changes.hasNext()) {
                Row change = changes.next();
                int count = switch (change.getKind()) {
                    case INSERT, UPDATE_AFTER -> 1;
                    case DELETE, UPDATE_BEFORE -> -1;
                };
                rows.merge(text(change), count, Integer::sum);
            }
        }
        rows.forEach((row, count) -> {
            if (count == 1) {
                out.println(row);
            } else if (count != 0) {
                out.println(count + " times: " + row);
            }
        });
    }

    private static String text(Row row) {
        StringBuilder text = new StringBuilder();
        for (int field = 0; field < row.getArity(); field++) {
            text.append(field == 0 ? "" : "|").append(text(row.getField(field)));
        }
        return text.toString();
    }

    private static String text(Object value) {
        if (value instanceof byte[] bytes) {
            return HexFormat.of().formatHex(bytes);
        } else if (value instanceof LocalTime time) {
            return TIME.format(time);
        } else if (value instanceof LocalDateTime timestamp) {
            return TIMESTAMP.format(timestamp);
        } else if (value instanceof Instant moment) {
            return TIMESTAMP.format(moment.atOffset(ZoneOffset.UTC));
        }
        return value == null ? "NULL" : value.toString();
    }
}
