import java.time.Duration;
import java.time.Instant;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Send requests straight to Kafka and read their answers, with Kafka's own client.
 *
 * <p>java -cp "KAFKA_LIBS/*" Requests.java localhost:9092 MODEL
 */
public class Requests {
    static final String INTAKE = System.getenv().getOrDefault("INTAKE_TOPIC", "headrace.intake");
    static final String RESULTS = System.getenv().getOrDefault("RESULTS_TOPIC", "headrace.results");

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", arguments[0]);
        var results = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
        var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
        try (results; producer) {
            var partitions = results.partitionsFor(RESULTS).stream()
                    .map(info -> new TopicPartition(info.topic(), info.partition())).toList();
            results.assign(partitions);
            results.seekToEnd(partitions);
            partitions.forEach(results::position); // where it ends before anything is sent, so that no answer is missed

            Set<String> waiting = new HashSet<>();
            for (int number = 0; number < 10; number++) {
                String id = UUID.randomUUID().toString();
                // One line as in an OpenAI batch file; its custom_id names the request.
                String line = """
                        {"custom_id": "%s", "method": "POST", "url": "/v1/chat/completions",
                         "body": {"model": "%s", "messages": [{"role": "user", "content": "Hello"}]}}
                        """.formatted(id, arguments[1]);
                producer.send(new ProducerRecord<>(INTAKE, line)).get();
                waiting.add(id);
            }
            Instant deadline = Instant.now().plusSeconds(120);
            while (!waiting.isEmpty() && Instant.now().isBefore(deadline)) {
                for (var answer : results.poll(Duration.ofSeconds(1))) {
                    if (waiting.remove(answer.key())) { // at least once: an answer may come again
                        System.out.println(answer.value());
                    }
                }
            }
            System.exit(waiting.size());
        }
    }
}
