package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"forebay/broker/packet"
)

// demoJudge stands at the cloud, behind the uplink, and writes down what
// arrives there. It knows nothing of the gateway.
type demoJudge struct {
	client *demoClient // constant after newDemoJudge
	prefix string      // of every topic at the cloud; constant

	mu      sync.Mutex
	streams map[string]*demoStream // guarded by mu; by topic, without the prefix
	samples map[string]*demoTimes  // guarded by mu; likewise
	strange int                    // guarded by mu: messages that nobody sent
}

// demoStream is what has arrived of one device. Numbers come in order, so that
// one that is skipped is missing until it comes after all.
type demoStream struct {
	next    uint64          // one more than the highest that has arrived
	missing map[uint64]bool // below next
	arrived uint64          // different ones
	again   uint64          // those that had arrived before
}

func (s *demoStream) take(number uint64) {
	switch {
	case number >= s.next:
		for skipped := s.next; skipped < number && len(s.missing) < 1_000_000; skipped++ {
			s.missing[skipped] = true
		}
		s.next = number + 1
		s.arrived++
	case s.missing[number]:
		delete(s.missing, number)
		s.arrived++
	default:
		s.again++
	}
}

// demoTimes is what has arrived of one tag, whose samples are told apart by
// their times. They come in order but for repetitions after an outage, which
// go back by less than what is kept here.
type demoTimes struct {
	recent  map[string]bool
	order   []string
	arrived uint64
}

const demoRecent = 10_000

func (s *demoTimes) take(time string) {
	if s.recent[time] {
		return
	}
	s.arrived++
	s.recent[time] = true
	if s.order = append(s.order, time); len(s.order) > demoRecent {
		delete(s.recent, s.order[0])
		s.order = s.order[1:]
	}
}

// newDemoJudge connects to the cloud and subscribes.
func newDemoJudge(ctx context.Context, address, prefix string) (*demoJudge, error) {
	client, err := dialDemo(ctx, address, "observer")
	if err != nil {
		return nil, err
	}
	j := &demoJudge{client: client, prefix: prefix, streams: map[string]*demoStream{}, samples: map[string]*demoTimes{}}
	client.onPacket = func(f packet.Frame) error {
		var ack packet.Suback
		if err := ack.Decode(f, packet.V5); err != nil {
			return err
		}
		if len(ack.Reasons) != 1 || ack.Reasons[0] != packet.ReasonGrantedQoS2 {
			return fmt.Errorf("demo: the cloud refuses the subscription: %v", ack.Reasons)
		}
		return errDemoPause
	}
	s := packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: []byte(prefix + "#"), QoS: 2}}}
	if err = client.send(s.Append(nil, packet.V5)); err == nil {
		err = client.read(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, client.conn.Close())
	}
	client.onPacket = j.onPacket
	return j, nil
}

func (j *demoJudge) onPacket(f packet.Frame) error {
	switch f.Type() {
	case packet.PUBLISH:
		var p packet.Publish
		if err := p.Decode(f, packet.V5); err != nil {
			return err
		}
		j.take(strings.TrimPrefix(string(p.Topic), j.prefix), p.Payload)
		switch p.QoS {
		case 1:
			return j.client.send((&packet.Ack{Type: packet.PUBACK, PacketID: p.PacketID}).Append(nil, packet.V5))
		case 2:
			return j.client.send((&packet.Ack{Type: packet.PUBREC, PacketID: p.PacketID}).Append(nil, packet.V5))
		}
	case packet.PUBREL:
		var ack packet.Ack
		if err := ack.Decode(f, packet.V5); err != nil {
			return err
		}
		return j.client.send((&packet.Ack{Type: packet.PUBCOMP, PacketID: ack.PacketID}).Append(nil, packet.V5))
	case packet.DISCONNECT:
		return errors.New("demo: the cloud has disconnected the observer")
	}
	return nil
}

func (j *demoJudge) take(topic string, payload []byte) {
	var m struct {
		Number *uint64
		Time   string
	}
	err := json.Unmarshal(payload, &m)
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case err == nil && m.Number != nil && *m.Number < 1<<40:
		j.stream(topic).take(*m.Number)
	case err == nil && m.Time != "":
		j.tag(topic).take(m.Time)
	default:
		j.strange++
	}
}

func (j *demoJudge) stream(topic string) *demoStream {
	s := j.streams[topic]
	if s == nil {
		s = &demoStream{missing: map[uint64]bool{}}
		j.streams[topic] = s
	}
	return s
}

func (j *demoJudge) tag(topic string) *demoTimes {
	s := j.samples[topic]
	if s == nil {
		s = &demoTimes{recent: map[string]bool{}}
		j.samples[topic] = s
	}
	return s
}

// demoVerdict compares what was acknowledged with what has arrived.
type demoVerdict struct {
	acknowledged uint64 // to the devices
	arrived      uint64 // of these, at the cloud
	lost         uint64 // acknowledged, and not arrived yet
	gaps         uint64 // of lost: a later one of the same device has arrived
	duplicated   uint64 // QoS 2 more than once, and messages that nobody sent
	repeated     uint64 // QoS 1 more than once, which MQTT allows

	samplesArrived uint64
}

// verdict is final once the devices are idle and everything that waits for the
// uplink has passed it; until then what is on its way counts as lost.
func (j *demoJudge) verdict(devices []*demoDevice) demoVerdict {
	j.mu.Lock()
	defer j.mu.Unlock()
	v := demoVerdict{duplicated: uint64(j.strange)}
	for _, d := range devices {
		s := j.stream(d.topic)
		v.acknowledged += d.acknowledged()
		v.arrived += s.arrived
		v.lost += d.promised(s.next)
		for number := range s.missing {
			if d.isPromised(number) {
				v.lost++
				v.gaps++
			}
		}
		if d.qos == 2 {
			v.duplicated += s.again
		} else {
			v.repeated += s.again
		}
	}
	for _, s := range j.samples {
		v.samplesArrived += s.arrived
	}
	return v
}
