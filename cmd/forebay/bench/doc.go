// Package bench has the load generators and tables of forebay bench.
//
// Every figure is measured in one run beside what it is compared with: rounds
// are interleaved, contender after contender, so that a machine that is busy for
// a while is so for all of them, and medians are compared. Read the ratios; the
// figures themselves belong to the machine.
//
// A benchmark fills a Table; cmd/forebay prints it.
package bench
