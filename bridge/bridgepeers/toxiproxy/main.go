// Command toxiproxy is Shopify's proxy with a bad network inside, for the tests of the bridge.
//
//	toxiproxy API-ADDRESS
//
// It is told what to do over its HTTP interface and ends with its standard input.
package main

import (
	"fmt"
	"io"
	"os"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "toxiproxy: want API-ADDRESS")
		os.Exit(2)
	}
	s := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	ended := make(chan error, 1)
	go func() { ended <- s.Listen(os.Args[1]) }()
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin) // until whoever started it is gone
		ended <- err
	}()
	if err := <-ended; err != nil {
		fmt.Fprintln(os.Stderr, "toxiproxy:", err)
		os.Exit(1)
	}
}
