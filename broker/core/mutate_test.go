package core_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/broker/brokertest"
	"forebay/broker/core"
	"forebay/broker/packet"
)

// Every packet of the transcripts with one bit flipped, and cut off at every byte: the connection goes on or ends, in
// 5.0 with the reason for it; what is sent is well-formed; another client notices nothing; nothing is left behind.
func TestEveryBitOfEveryPacket(t *testing.T) {
	const longest = 40 // behind it stands what stands in shorter ones too
	wrong := 0
	for _, v := range []packet.Version{packet.V31, packet.V311, packet.V5} {
		packets := spoken(t, v)
		if len(packets) < 10 {
			t.Fatalf("only %d packets of %v in the transcripts", len(packets), v)
		}
		for p := range packets {
			for i := range min(len(p), longest) {
				for bit := range 8 {
					b := []byte(p)
					b[i] ^= 1 << bit
					offend(t, v, b)
				}
				wrong += 9
				offend(t, v, []byte(p[:i]))
			}
		}
	}
	t.Logf("%d packets", wrong)
}

// spoken are the packets that clients of a version send in the transcripts.
func spoken(t *testing.T, v packet.Version) map[string]bool {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		versions := map[string]packet.Version{}
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#!")
			words := strings.Fields(line)
			if len(words) > 0 && words[0] == "==" {
				clear(versions)
			}
			if len(words) < 2 || !strings.HasSuffix(words[0], ">") {
				continue
			}
			b, spoke := brokertest.Parse(strings.Join(words[1:], " "), versions[words[0]])
			versions[words[0]] = spoke
			same := v == packet.V31 && spoke == packet.V311 && b[0]>>4 != byte(packet.CONNECT) // but for CONNECT
			if spoke == v || same {
				all[string(b)] = true
			}
		}
	}
	return all
}

// offend sends b, which is likely to be wrong, in a connection of its own.
func offend(t *testing.T, v packet.Version, b []byte) {
	t.Helper()
	w := newBench(core.Config{})
	witness := w.connect("connect witness v4 clean")
	sizes := w.core.Stats()
	bad := w.core.Accept(core.ConnInfo{})
	w.got[bad], w.got[witness] = []byte{}, []byte{}
	isConnect := len(b) > 0 && packet.Type(b[0]>>4) == packet.CONNECT
	if !isConnect {
		name := map[packet.Version]string{packet.V31: "v3", packet.V311: "v4", packet.V5: "v5 auth=test data=ok aliases=2"}[v]
		w.send(bad, "connect bad clean "+name)
	}
	w.core.Receive(bad, b)
	w.round()
	w.core.Durable(w.log.Commit())
	w.round()
	reason := last(t, w.got[bad], bad.Version())
	mayEnd := isConnect || len(b) > 0 && packet.Type(b[0]>>4) == packet.DISCONNECT
	if bad.Closing() && bad.Version() == packet.V5 && !mayEnd && reason < 0x80 {
		t.Fatalf("% x: closed without a reason, the output is % x", b, w.got[bad])
	}
	if !bad.Closing() && reason >= 0x80 {
		t.Fatalf("% x: told 0x%02X and not closed", b, byte(reason))
	}
	w.core.Lost(bad, "end")
	w.send(witness, "pingreq")
	if got := w.got[witness]; string(got) != "\xd0\x00" {
		t.Fatalf("% x: the witness got % x", b, got)
	}
	w.core.Tick(w.now.AddDate(1, 0, 0))
	w.round()
	if left := w.core.Stats(); left.Connections != sizes.Connections || left.Sessions != sizes.Sessions || left.MemoryBytes != 0 || left.Subscriptions != 0 {
		t.Fatalf("% x: left behind: %+v", b, left)
	}
}

// last returns the reason of the CONNACK or DISCONNECT that ends the output, 0 if there is none. Whatever stands in it
// must be well-formed.
func last(t *testing.T, out []byte, v packet.Version) packet.Reason {
	t.Helper()
	var reason packet.Reason
	for len(out) > 0 {
		f, n, err := packet.Next(out, max(v, packet.V31), 0)
		if err != nil || n == 0 {
			t.Fatalf("not a packet: % x: %v", out, err)
		}
		if _, err := brokertest.Format(f, max(v, packet.V31), true); err != nil {
			t.Fatalf("% x: %v", f.Whole, err)
		}
		out = out[n:]
		reason = 0
		if v == packet.V5 && len(f.Body) > 0 && f.Type() == packet.DISCONNECT {
			reason = packet.Reason(f.Body[0])
		}
		if v == packet.V5 && len(f.Body) > 1 && f.Type() == packet.CONNACK {
			reason = packet.Reason(f.Body[1])
		}
	}
	return reason
}
