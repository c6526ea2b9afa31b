package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

// lasting is a CONNECT whose session outlives its connection.
func lasting(id string) packet.Connect {
	return packet.Connect{ClientID: []byte(id), Properties: packet.ConnectProperties{SessionExpiry: 3600}}
}

// Everything that was acknowledged before a stop is there after it.
func TestRestartKeepsEverything(t *testing.T) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			dir := t.TempDir()
			g := open(t, dir, anyPort()).run()
			away := dial(t, g.addr(), v)
			if away.login(lasting("away")).SessionPresent {
				t.Error("session present on the first day")
			}
			away.subscribe("plant/#", 2)
			away.disconnect()
			pub := g.client(v, "pub")
			pub.deliver(packet.Publish{Topic: []byte("state"), Payload: []byte("retained"), QoS: 1, PacketID: 1, Retain: true})
			for i := range 3 {
				pub.deliver(packet.Publish{Topic: []byte("plant/x"), Payload: fmt.Append(nil, "message ", i), QoS: byte(i%2 + 1), PacketID: uint16(i + 2)})
			}
			g.stop()

			g = open(t, dir, anyPort()).run()
			back := dial(t, g.addr(), v)
			if ack := back.login(lasting("away")); !ack.SessionPresent && v != packet.V31 {
				t.Error("the session is gone")
			}
			for i := range 3 {
				want := message{"plant/x", fmt.Sprint("message ", i), byte(i%2 + 1), false, false}
				got := back.receive()
				got.dup = false // allowed: the broker cannot know what had been sent before
				if got != want {
					t.Errorf("got %v, want %v", got, want)
				}
			}
			late := g.client(v, "late")
			late.subscribe("state", 1)
			if got, want := late.receive(), (message{"state", "retained", 1, true, false}); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
			// The subscription is there too.
			late.deliver(packet.Publish{Topic: []byte("plant/y"), Payload: []byte("new"), QoS: 1, PacketID: 1})
			if got := back.receive(); got.payload != "new" {
				t.Errorf("got %v", got)
			}
		})
	}
}

// An unacknowledged QoS 1 message comes again after a restart, an acknowledged one does not.
func TestRestartResendsOnlyWhatWasNotAcknowledged(t *testing.T) {
	dir := t.TempDir()
	g := open(t, dir, anyPort()).run()
	sub := dial(t, g.addr(), packet.V5)
	sub.login(lasting("sub"))
	sub.subscribe("t", 1)
	pub := g.client(packet.V5, "pub")
	pub.deliver(packet.Publish{Topic: []byte("t"), Payload: []byte("first"), QoS: 1, PacketID: 1})
	pub.deliver(packet.Publish{Topic: []byte("t"), Payload: []byte("second"), QoS: 1, PacketID: 2})
	if m := sub.receive(); m.payload != "first" {
		t.Fatalf("got %v", m)
	}
	sub.expect(packet.PUBLISH)          // and no acknowledgement
	sub.send(packet.AppendPingreq(nil)) // so that the first has arrived
	sub.expect(packet.PINGRESP)
	g.stop()

	g = open(t, dir, anyPort()).run()
	back := dial(t, g.addr(), packet.V5)
	back.login(lasting("sub"))
	if got, want := back.receive(), (message{"t", "second", 1, false, true}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWillIsPublishedWhenTheConnectionBreaks(t *testing.T) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			g := start(t, anyPort())
			sub := g.client(v, "sub")
			sub.subscribe("gone", 1)
			will := packet.Connect{ClientID: []byte("c"), CleanStart: true, HasWill: true,
				Will: packet.WillMessage{Topic: []byte("gone"), Payload: []byte("c"), QoS: 1}}
			polite := dial(t, g.addr(), v)
			polite.login(will)
			polite.disconnect()
			g.settled("the polite one gone", func(s Stats) bool { return s.Connections == 1 })
			rude := dial(t, g.addr(), v)
			will.Will.Payload = []byte("rude")
			rude.login(will)
			if err := rude.conn.Close(); err != nil {
				t.Fatal(err)
			}
			if m := sub.receive(); m.payload != "rude" {
				t.Errorf("got %v", m)
			}
		})
	}
}

func TestPublishFromInside(t *testing.T) {
	g := start(t, anyPort())
	sub := g.client(packet.V5, "sub")
	sub.subscribe("telemetry/#", 1)
	done := make(chan error, 1)
	g.Publish(&Message{Topic: "telemetry/a", Payload: []byte("21.5"), QoS: 1, Retain: true}, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got, want := sub.receive(), (message{"telemetry/a", "21.5", 1, false, false}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	g.Publish(&Message{Topic: "telemetry/#", QoS: 1}, func(err error) { done <- err })
	if err := <-done; err == nil {
		t.Error("a topic with a wildcard was published")
	}
	g.Publish(&Message{Topic: "telemetry/b"}, nil)
	if m := sub.receive(); m.topic != "telemetry/b" {
		t.Errorf("got %v", m)
	}
}

func TestPublishAfterTheEndIsRefused(t *testing.T) {
	g := start(t, anyPort())
	g.stop()
	done := make(chan error, 1)
	g.Publish(&Message{Topic: "t", QoS: 1}, func(err error) { done <- err })
	if err := <-done; err != ErrClosed {
		t.Errorf("done with %v", err)
	}
	if _, err := g.Stats(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("Stats: %v", err)
	}
}

// next waits for an entry of a cursor.
func next(t *testing.T, c *storage.Cursor) storage.Entry {
	t.Helper()
	more := make(chan struct{}, 1)
	c.SetNotify(func() {
		select {
		case more <- struct{}{}:
		default:
		}
	})
	for {
		if e, ok := c.Next(); ok {
			return e
		}
		select {
		case <-more:
		case <-time.After(patience):
			t.Fatal("no entry comes")
		}
	}
}

func TestAttachmentGetsWhatItsFiltersMatch(t *testing.T) {
	dir := t.TempDir()
	g := open(t, dir, anyPort())
	live := make(chan string, 10)
	bridge := Attachment{Name: "cloud", Filters: []AttachFilter{{Filter: "plant/#", MaxQoS: 1}},
		Live: func(p *packet.Publish) { live <- string(p.Payload) }}
	cursor, err := g.Attach(bridge) // before Run
	if err != nil {
		t.Fatal(err)
	}
	g.run()
	pub := g.client(packet.V311, "pub")
	pub.deliver(packet.Publish{Topic: []byte("other/x"), Payload: []byte("not for it"), QoS: 1, PacketID: 1})
	pub.deliver(packet.Publish{Topic: []byte("plant/x"), Payload: []byte("kept"), QoS: 2, PacketID: 2})
	pub.publish(packet.Publish{Topic: []byte("plant/x"), Payload: []byte("live")})
	if got := <-live; got != "live" {
		t.Errorf("live %q", got)
	}
	e := next(t, cursor)
	var p packet.Publish
	f, _, err := packet.Next(e.Message, packet.V5, 0)
	if err == nil {
		err = p.Decode(f, packet.V5)
	}
	if err != nil {
		t.Fatal(err)
	}
	if string(p.Topic) != "plant/x" || string(p.Payload) != "kept" || e.Options&3 != 1 {
		t.Errorf("entry %s=%q options %d", p.Topic, p.Payload, e.Options)
	}

	// What came through the attachment does not go back to it.
	done := make(chan error, 1)
	g.Publish(&Message{Topic: "plant/cmd", QoS: 1, Origin: "cloud"}, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if e, ok := cursor.Next(); ok && e.N != 1 {
		t.Errorf("the attachment got its own message back as %d", e.N)
	}

	if err := g.Detach("cloud"); err != nil {
		t.Fatal(err)
	}
	pub.deliver(packet.Publish{Topic: []byte("plant/x"), Payload: []byte("late"), QoS: 1, PacketID: 3})
	if n := cursor.Stats().Count; n != 1 {
		t.Errorf("%d entries wait after Detach, want 1", n)
	}
}

func TestAttachmentPlacesTopicsInQueues(t *testing.T) {
	g := open(t, t.TempDir(), anyPort())
	away := false // of the loop, once the server runs
	live := make(chan string, 10)
	cursors, err := g.AttachQueues(Attachment{Name: "cloud", Queues: []string{"high"}, Filters: []AttachFilter{{Filter: "#", MaxQoS: 2}, {Filter: "a", MaxQoS: 2}},
		Live: func(p *packet.Publish) { live <- string(p.Topic) },
		Place: func(topic []byte) Place {
			switch {
			case string(topic) == "no":
				return Place{Not: true}
			case string(topic) == "a" && !away:
				return Place{Queue: 1, MaxQoS: 1}
			}
			return Place{MaxQoS: 2, Lift: 1}
		}})
	if err != nil {
		t.Fatal(err)
	}
	if q := g.Queues("cloud"); len(q) != 1 || q[0] != "high" {
		t.Errorf("queues %q", q)
	}
	g.run()
	pub := g.client(packet.V311, "pub")
	send := func(topic string, qos byte, id uint16) {
		pub.deliver(packet.Publish{Topic: []byte(topic), QoS: qos, PacketID: id})
	}
	send("no", 1, 1)
	send("a", 2, 2)
	send("b", 2, 3)
	pub.publish(packet.Publish{Topic: []byte("a")})
	if got := <-live; got != "a" {
		t.Errorf("live %q", got)
	}
	want := func(counts ...int64) {
		t.Helper()
		for i, n := range counts {
			if got := cursors[i].Stats().Count; got != n {
				t.Errorf("%d messages wait in queue %d, want %d", got, i, n)
			}
		}
	}
	want(1, 1)
	if e := next(t, cursors[1]); e.Options&3 != 1 {
		t.Errorf("QoS %d in the queue, want 1", e.Options&3)
	}
	if err := g.inbox.postCall(func() { away = true }); err != nil {
		t.Fatal(err)
	}
	send("a", 1, 4) // decided before
	want(1, 2)
	if err := g.Resort(); err != nil {
		t.Fatal(err)
	}
	send("a", 1, 5)
	want(2, 2)
}

func TestAttachRefusesBadFilters(t *testing.T) {
	g := start(t, anyPort())
	for _, f := range []AttachFilter{{Filter: "a/#/b"}, {Filter: ""}, {Filter: "a", MaxQoS: 3}} {
		if _, err := g.Attach(Attachment{Name: "x", Filters: []AttachFilter{f}}); err == nil {
			t.Errorf("filter %+v was taken", f)
		}
	}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPasswords(t *testing.T) {
	cfg := Config{PasswordFile: writeFile(t, "passwd", userLines), Listeners: []ListenerConfig{
		{Address: "127.0.0.1:0"}, {Address: "127.0.0.1:0", Anonymous: true},
	}}
	g := start(t, cfg)
	name := func(user, password string) packet.Connect {
		return packet.Connect{ClientID: []byte("c"), CleanStart: true, HasUsername: true, HasPassword: true,
			Username: []byte(user), Password: []byte(password)}
	}
	nobody := packet.Connect{ClientID: []byte("c"), CleanStart: true}
	for _, test := range []struct {
		listener int
		connect  packet.Connect
		want     packet.Reason
	}{
		{0, name("alice", "secret"), packet.ReasonSuccess},
		{0, name("bob", "se:cret"), packet.ReasonSuccess},
		{0, name("alice", "wrong"), packet.ReasonBadUserNameOrPassword},
		{0, name("carol", "secret"), packet.ReasonBadUserNameOrPassword},
		{0, name("", ""), packet.ReasonBadUserNameOrPassword},
		{0, nobody, packet.ReasonNotAuthorized},
		{1, nobody, packet.ReasonSuccess},
		{1, name("alice", "secret"), packet.ReasonSuccess},
		{1, name("alice", "wrong"), packet.ReasonBadUserNameOrPassword},
	} {
		for _, v := range versions {
			c := dial(t, g.Addrs()[test.listener], v)
			if got := c.connect(test.connect).Reason; got != test.want {
				t.Errorf("%v, listener %d, %q with %q: %v, want %v", v, test.listener,
					test.connect.Username, test.connect.Password, got, test.want)
			}
			if test.want != packet.ReasonSuccess {
				c.expectClosed()
			}
		}
	}
}

// While passwords are checked the loop serves everybody else, and a client that goes meanwhile is no harm.
func TestPasswordsOfManyAtOnce(t *testing.T) {
	g := start(t, Config{PasswordFile: writeFile(t, "passwd", userLines), Listeners: []ListenerConfig{{Address: "127.0.0.1:0"}}})
	var all []*client
	for i := range 100 {
		c := dial(t, g.addr(), packet.V5)
		p := packet.Connect{Version: packet.V5, ClientID: fmt.Append(nil, "c", i), CleanStart: true, HasUsername: true, HasPassword: true,
			Username: []byte("alice"), Password: []byte("secret")}
		// The subscription is there before the answer to CONNECT can be.
		s := packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: []byte("x")}}}
		c.send(s.Append(p.Append(nil), packet.V5))
		if i%2 == 1 {
			if err := c.conn.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		all = append(all, c)
	}
	for _, c := range all {
		c.expect(packet.CONNACK)
		c.expect(packet.SUBACK)
	}
	g.settled("the others gone", func(s Stats) bool { return s.Sockets == len(all) })
}

func TestAccessFileIsObeyed(t *testing.T) {
	cfg := Config{
		PasswordFile: writeFile(t, "passwd", userLines), ACLFile: writeFile(t, "acl", accessLines),
		Listeners: []ListenerConfig{{Address: "127.0.0.1:0", Anonymous: true}},
	}
	g := start(t, cfg)
	alice := dial(t, g.addr(), packet.V5)
	alice.login(packet.Connect{ClientID: []byte("a"), CleanStart: true, HasUsername: true, HasPassword: true,
		Username: []byte("alice"), Password: []byte("secret")})
	alice.subscribe("plant/press/#", 1)
	alice.publish(packet.Publish{Topic: []byte("plant/press/x")})
	if m := alice.receive(); m.topic != "plant/press/x" {
		t.Errorf("got %v", m)
	}
	nobody := g.client(packet.V5, "n")
	nobody.publish(packet.Publish{Topic: []byte("plant/press/x"), QoS: 1, PacketID: 1})
	var ack packet.Ack
	if err := ack.Decode(nobody.expect(packet.PUBACK), packet.V5); err != nil {
		t.Fatal(err)
	}
	if ack.Reason != packet.ReasonNotAuthorized {
		t.Errorf("PUBACK %v, want %v", ack.Reason, packet.ReasonNotAuthorized)
	}
	for _, filter := range []string{"plant/#", "$share/g/plant/#"} {
		s := packet.Subscribe{PacketID: 2, Subscriptions: []packet.Subscription{{Filter: []byte(filter)}}}
		nobody.send(s.Append(nil, packet.V5))
		var suback packet.Suback
		if err := suback.Decode(nobody.expect(packet.SUBACK), packet.V5); err != nil {
			t.Fatal(err)
		}
		if suback.Reasons[0] < 0x80 {
			t.Errorf("subscription to %s: %v", filter, suback.Reasons[0])
		}
	}
}

// A name that nobody checks must open nothing.
func TestAccessFileWithoutPasswordFileKnowsNoUsers(t *testing.T) {
	cfg := anyPort()
	cfg.ACLFile = writeFile(t, "acl", accessLines)
	g := start(t, cfg)
	c := dial(t, g.addr(), packet.V5)
	c.login(packet.Connect{ClientID: []byte("a"), CleanStart: true, HasUsername: true, Username: []byte("alice")})
	c.publish(packet.Publish{Topic: []byte("plant/press/x"), QoS: 1, PacketID: 1})
	var ack packet.Ack
	if err := ack.Decode(c.expect(packet.PUBACK), packet.V5); err != nil {
		t.Fatal(err)
	}
	if ack.Reason != packet.ReasonNotAuthorized {
		t.Errorf("PUBACK %v, want %v", ack.Reason, packet.ReasonNotAuthorized)
	}
}

func TestFileProblemsStopTheStart(t *testing.T) {
	g := start(t, anyPort()) // for its open store
	cfg := anyPort()
	cfg.PasswordFile = writeFile(t, "passwd", "alice:secret\n")
	cfg.ACLFile = filepath.Join(t.TempDir(), "missing")
	_, err := New(cfg, g.store, g.lines)
	if err == nil {
		t.Fatal("started with a broken password file")
	}
	for _, want := range []string{cfg.PasswordFile, cfg.ACLFile} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("error %q tells the password", err)
	}
}
