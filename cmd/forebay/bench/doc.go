// Package bench is what `forebay bench` runs: load generators that do as little as they can and count everything, and
// the tables they print.
//
// A generator shares the machine with what it measures, so figures are compared within one run only: all candidates
// take turns in every round, and the median over the rounds is printed beside its ratio to the others. Processor time
// is that of the measured process alone. Every message carries its publisher's running number: a figure that was
// reached by losing or repeating messages is printed with a line that says so.
package bench
