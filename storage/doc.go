// Package storage is the durable log, its cursors and the state tables. It
// keeps bytes and numbers and knows no MQTT.
package storage
