// Send requests straight to Kafka and read their answers, with @platformatic/kafka.
//
//     npm ci && npx tsx requests.ts localhost:9092 MODEL
import { randomUUID } from 'node:crypto'
import { Consumer, MessagesStreamModes, Producer, stringDeserializers, stringSerializers } from '@platformatic/kafka'

const intake = process.env.INTAKE_TOPIC ?? 'headrace.intake'
const results = process.env.RESULTS_TOPIC ?? 'headrace.results'
const [bootstrap, model] = process.argv.slice(2)
const common = { clientId: 'example', bootstrapBrokers: [bootstrap] }

function request (customId: string): string {
  // One line as in an OpenAI batch file; its custom_id names the request.
  const body = { model, messages: [{ role: 'user', content: 'Hello' }] }
  return JSON.stringify({ custom_id: customId, method: 'POST', url: '/v1/chat/completions', body })
}

const consumer = new Consumer({ ...common, groupId: `reader-${randomUUID()}`, deserializers: stringDeserializers })
const answers = await consumer.consume({ topics: [results], mode: MessagesStreamModes.EARLIEST, autocommit: false })
const producer = new Producer({ ...common, serializers: stringSerializers })

const waiting = new Set(Array.from({ length: 10 }, () => randomUUID() as string))
const messages = [...waiting].map(id => ({ topic: intake, value: request(id) }))
await producer.send({ messages, acks: -1 })

const timer = setTimeout(() => {
  console.error(`${waiting.size} requests have no answer`)
  process.exit(1)
}, 120_000)
for await (const answer of answers) {
  // At least once: an answer may come again, and others' answers are here too.
  if (waiting.delete(answer.key)) console.log(answer.value)
  if (waiting.size === 0) break
}
clearTimeout(timer)
await Promise.all([producer.close(), consumer.close(true)])
