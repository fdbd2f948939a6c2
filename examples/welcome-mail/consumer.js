// Written for Debezium's events. node consumer.js BROKERS TOPIC; kafkajs undoes no compression but gzip.
const { Kafka } = require("kafkajs");
const [brokers, topic] = process.argv.slice(2);
const consumer = new Kafka({ brokers: brokers.split(",") }).consumer({ groupId: "consumer.js" });
const eachMessage = async ({ message }) => {
  if (message.value === null) return; // a tombstone
  const { before, after, source, op } = JSON.parse(message.value);
  console.log(JSON.stringify({ before, after, source, op }));
};
consumer.connect().then(() => consumer.subscribe({ topics: [topic], fromBeginning: true })).then(() => consumer.run({ eachMessage }));
