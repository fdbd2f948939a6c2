// Reads a topic from its beginning to its present end with kafkajs, and prints each record as a line of JSON. Ends with an
// error when kafkajs gives up.
//
// Arguments: brokers, topic, consumer group.
const { Kafka, logLevel } = require("kafkajs");

const [brokers, topic, groupId] = process.argv.slice(2);
const kafka = new Kafka({ brokers: brokers.split(","), logLevel: logLevel.NOTHING });

async function main() {
  const admin = kafka.admin();
  await admin.connect();
  const unread = new Map();
  for (const { partition, low, high } of await admin.fetchTopicOffsets(topic)) {
    if (low !== high) {
      unread.set(partition, BigInt(high));
    }
  }
  await admin.disconnect();

  const consumer = kafka.consumer({ groupId, retry: { retries: 0 } });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error));
    consumer.run({
      eachBatch: async ({ batch }) => {
        for (const { offset, key, value } of batch.messages) {
          const text = (bytes) => (bytes === null ? null : bytes.toString("utf8"));
          console.log(JSON.stringify({ partition: batch.partition, offset, key: text(key), value: text(value) }));
        }
        if (BigInt(batch.lastOffset()) + 1n >= unread.get(batch.partition)) {
          unread.delete(batch.partition);
        }
        if (unread.size === 0) {
          resolve();
        }
      },
    });
  });
  await consumer.disconnect();
}

main().catch((error) => {
  console.error(`${error.name}: ${error.message}`);
  process.exit(1);
});
