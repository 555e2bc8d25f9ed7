// Send requests straight to Kafka and read their answers, with franz-go.
//
//	go run . localhost:9092 MODEL
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func topic(variable, fallback string) string {
	if name := os.Getenv(variable); name != "" {
		return name
	}
	return fallback
}

func main() {
	intake, results := topic("INTAKE_TOPIC", "headrace.intake"), topic("RESULTS_TOPIC", "headrace.results")
	// From now on, so that no answer is missed.
	from := kgo.NewOffset().AfterMilli(time.Now().UnixMilli())
	client, err := kgo.NewClient(kgo.SeedBrokers(os.Args[1]), kgo.ConsumeTopics(results), kgo.ConsumeResetOffset(from))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()

	waiting := map[string]bool{}
	for number := range 10 {
		id := fmt.Sprintf("go-%d-%d", time.Now().UnixNano(), number)
		// One line as in an OpenAI batch file; its custom_id names the request.
		line := fmt.Sprintf(`{"custom_id": %q, "method": "POST", "url": "/v1/chat/completions", "body":
			{"model": %q, "messages": [{"role": "user", "content": "Hello"}]}}`, id, os.Args[2])
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: intake, Value: []byte(line)}).FirstErr(); err != nil {
			log.Fatal(err)
		}
		waiting[id] = true
	}
	for len(waiting) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			log.Fatalf("%d requests have no answer: %v", len(waiting), err)
		}
		fetches.EachRecord(func(answer *kgo.Record) {
			if waiting[string(answer.Key)] { // at least once: an answer may come again
				delete(waiting, string(answer.Key))
				fmt.Println(string(answer.Value))
			}
		})
	}
}
