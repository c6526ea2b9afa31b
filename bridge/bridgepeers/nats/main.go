// Command nats is a NATS server with JetStream and MQTT, one node of a cluster, for the tests of the bridge.
//
//	nats NAME DIRECTORY MQTT-PORT CLUSTER-PORT OTHER-CLUSTER-PORT...
//
// It prints "ready" when it takes MQTT connections and ends with its standard input.
package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "nats:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 4 {
		return errors.New("want a name, a directory, a port for MQTT and the ports of the cluster, ours first")
	}
	const local = "127.0.0.1"
	var ports []int
	for _, a := range args[2:] {
		n, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		ports = append(ports, n)
	}
	o := &server.Options{ServerName: args[0], Host: local, Port: server.RANDOM_PORT, JetStream: true, StoreDir: args[1], NoSigs: true, NoLog: true}
	o.MQTT.Host, o.MQTT.Port = local, ports[0]
	o.MQTT.StreamReplicas = 1
	if len(ports) > 2 {
		o.MQTT.StreamReplicas = 3
	}
	o.Cluster.Name, o.Cluster.Host, o.Cluster.Port = "cloud", local, ports[1]
	for _, p := range ports[2:] {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("%s:%d", local, p)})
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		return fmt.Errorf("not ready after 30 s")
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin) // until whoever started it is gone
	s.Shutdown()
	return err
}
