package modbus_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// learner keeps what a poller tells that it has learned, as JSON.
type learner struct {
	mu   sync.Mutex
	last []byte
}

func (l *learner) learned(u modbus.LearnedUnit) {
	text, err := json.Marshal(u)
	if err != nil {
		panic(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = text
}

// known returns what was learned last.
func (l *learner) known(t *testing.T) (u modbus.LearnedUnit) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := json.Unmarshal(l.last, &u); err != nil {
		t.Fatalf("%q: %v", l.last, err)
	}
	return u
}

// start runs a poller that heeds what was learned before and tells l of more.
func (l *learner) start(t *testing.T, cfg modbus.Config, slave *modbustest.Slave, before ...modbus.LearnedUnit) *rig {
	return startPrepared(t, cfg, toTCP(slave), func(p *modbus.Poller) {
		p.OnLearned(l.learned)
		p.Recall(before)
	})
}

// row is n tags of one register each, from address on.
func row(slave *modbustest.Slave, address, n int) []modbus.TagConfig {
	var tags []modbus.TagConfig
	for i := range n {
		slave.Image.SetRegister(modbus.HoldingRegister, uint16(address+i), uint16(address+i))
		tags = append(tags, holding(fmt.Sprintf("r%d", address+i), address+i))
	}
	return tags
}

// reads returns the reads of the last requests, as "100+5".
func reads(requests []modbustest.Request) string {
	var words []string
	for _, r := range requests {
		words = append(words, fmt.Sprintf("%d+%d", r.Address(), r.Count()))
	}
	return strings.Join(words, " ")
}

// across refuses what reaches over an address.
func across(border int) func(modbustest.Request) bool {
	return func(r modbustest.Request) bool { return r.Address() < border && r.Address()+r.Count() > border }
}

// longer refuses reads of more than n registers.
func longer(n int) func(modbustest.Request) bool {
	return func(r modbustest.Request) bool { return r.Count() > n }
}

// touching refuses what touches an address.
func touching(address int) func(modbustest.Request) bool {
	return func(r modbustest.Request) bool { return r.Address() <= address && r.Address()+r.Count() > address }
}

func TestPlanIsLearned(t *testing.T) {
	twoRows := func(s *modbustest.Slave) []modbus.TagConfig { return append(row(s, 100, 10), row(s, 113, 10)...) }
	hundred := func(s *modbustest.Slave) []modbus.TagConfig { return row(s, 0, 100) }
	tests := []struct {
		name    string
		tags    func(*modbustest.Slave) []modbus.TagConfig
		gap     int
		refuses func(modbustest.Request) bool
		reads   string // in one interval, when everything is known
		hole    string // the tag that stays bad
		limit   int    // of registers, learned
	}{
		{"at most 60", hundred, 0, longer(60), "0+60 60+40", "", 60},
		{"at most 16", hundred, 0, longer(16), "0+16 16+16 32+16 48+16 64+16 80+16 96+4", "", 16},
		{"at most 1", func(s *modbustest.Slave) []modbus.TagConfig { return row(s, 0, 3) }, 0, longer(1), "0+1 1+1 2+1", "", 1},
		{"a border", hundred, 0, across(50), "0+50 50+50", "", 0},
		{"a border elsewhere", hundred, 0, across(30), "", "", 0},
		{"an illegal gap", twoRows, 3, touching(111), "100+10 113+10", "", 0},
		{"a legal gap", twoRows, 3, across(500), "100+23", "", 0},
		{"a hole", hundred, 0, touching(37), "0+37 38+62", "r37", 0},
		{"a hole at the end", hundred, 0, touching(99), "0+99", "r99", 0},
		{"a hole and a maximum", hundred, 0, func(r modbustest.Request) bool { return touching(37)(r) || longer(40)(r) }, "0+37 38+40 78+22", "r37", 40},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				slave := modbustest.New()
				slave.Fault = func(r modbustest.Request) modbustest.Fault {
					if test.refuses(r) {
						return modbustest.Fault{Exception: byte(2 + r.Number%2)}
					}
					return modbustest.Fault{}
				}
				cfg := tcp(unit("plc", 1, test.tags(slave)...))
				cfg.Links[0].Units[0].MaxGap = test.gap
				var l learner
				r := l.start(t, cfg, slave)
				pass(100 * time.Second)
				before := len(slave.Requests())
				pass(time.Second)
				settled := reads(slave.Requests()[before:])
				if test.reads != "" && !sameReads(settled, test.reads) {
					t.Errorf("in one interval it reads %s; want %s", settled, test.reads)
				}
				if strings.Count(settled, "+") > 8 {
					t.Errorf("in one interval it reads %s", settled)
				}
				r.noWrongValue(t)
				for _, s := range r.samples {
					if s.Quality == modbus.Bad && s.Tag.Name != test.hole {
						t.Fatalf("%s is bad: %v", s.Tag.Name, s.Err)
					}
				}
				r.stop()
				if l.last == nil {
					return
				}

				// After a restart nothing is asked in vain but the hole.
				known := l.known(t)
				if test.limit > 0 && (known.Registers.Good != test.limit || known.Registers.Refused != test.limit+1) {
					t.Errorf("learned %+v; want a maximum of %d", known, test.limit)
				}
				before = len(slave.Requests())
				r = l.start(t, cfg, slave, known)
				pass(900 * time.Millisecond)
				for _, q := range slave.Requests()[before:] {
					if test.refuses(q) && fmt.Sprintf("r%d", q.Address()) != test.hole {
						t.Errorf("after a restart it reads %s", reads([]modbustest.Request{q}))
					}
				}
				r.noWrongValue(t)
			})
		})
	}
}

// sameReads compares reads in any order.
func sameReads(a, b string) bool {
	count := make(map[string]int)
	for _, w := range strings.Fields(a) {
		count[w]++
	}
	for _, w := range strings.Fields(b) {
		count[w]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestMaximumIsTriedAgainAfterADay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		var limit atomic.Int32
		limit.Store(60)
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			if r.Count() > int(limit.Load()) {
				return modbustest.Fault{Exception: 3}
			}
			return modbustest.Fault{}
		}
		cfg := tcp(unit("plc", 1, row(slave, 0, 100)...))
		cfg.Links[0].Units[0].Interval = time.Minute
		var l learner
		r := l.start(t, cfg, slave)
		pass(23 * time.Hour)
		refused := r.poller.Units()[0].Exceptions[3]
		if refused > 20 {
			t.Errorf("%d reads were refused", refused)
		}
		limit.Store(125) // new firmware
		pass(3 * time.Hour)
		before := len(slave.Requests())
		pass(time.Minute)
		if got := reads(slave.Requests()[before:]); got != "0+100" {
			t.Errorf("the next day it reads %s", got)
		}
		r.noWrongValue(t)
	})
}

func TestLearnedOfAnotherConfigurationDoesNoHarm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		var l learner
		r := l.start(t, tcp(unit("plc", 1, row(slave, 0, 20)...)), slave,
			modbus.LearnedUnit{Link: "line", Unit: "gone", Registers: modbus.Sizes{Good: 1, Refused: 2}},
			modbus.LearnedUnit{
				Link: "line", Unit: "plc", Registers: modbus.Sizes{Good: -5, Refused: 1},
				Cuts:  []modbus.Cut{{Table: modbus.Coil, Address: 10}, {Table: modbus.HoldingRegister, Address: 70000}},
				Holes: []modbus.Hole{{Table: modbus.HoldingRegister, Address: -3, Count: 5, Exception: 2}},
			})
		pass(10 * time.Second)
		if good := r.noWrongValue(t); good < 180 {
			t.Errorf("%d good samples", good)
		}
		if got := r.statesOf("plc"); !strings.HasSuffix(got, "online") {
			t.Errorf("states: %s", got)
		}
	})
}
