package brokertest

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"forebay/broker/packet"
)

// Parse makes the bytes of a control packet from a line: the name of the packet in lower case, what it always has, and
// then what it may have.
//
//	connect ID v3|v4|v5 [clean] [bridge] [keepalive=S] [user=U] [pass=P] [expiry=S] [receive=N] [size=N] [aliases=N]
//	        [auth=METHOD] [data=D] [noproblem] [asksresponse]
//	        [will=TOPIC] [willqos=N] [willretain] [willdelay=S] [willexpiry=S] [=WILLPAYLOAD]
//	publish TOPIC|- [q1|q2] [id=N] [dup] [retain] [expiry=S] [alias=N] [ids=N,N] [type=T] [response=T] [correlation=C]
//	        [format=N] [user=NAME:VALUE]… [=PAYLOAD]
//	puback|pubrec|pubrel|pubcomp ID [0xREASON]
//	subscribe ID FILTER:QOS[:nl][:rap][:rh1|:rh2]… [id=N]
//	unsubscribe ID FILTER…
//	pingreq · disconnect [0xREASON] [expiry=S] · auth [0xREASON] [method=M] [data=D] · hex BYTES…
//
// Connect's ID may be - for none. v is the version of the connection; connect brings its own.
func Parse(line string, v packet.Version) ([]byte, packet.Version) {
	words := strings.Fields(line)
	name, words := words[0], words[1:]
	switch name {
	case "hex":
		b, err := hex.DecodeString(strings.Join(words, ""))
		if err != nil {
			panic(err)
		}
		return b, v
	case "connect":
		return parseConnect(words)
	case "publish":
		return parsePublish(words).Append(nil, v), v
	case "puback", "pubrec", "pubrel", "pubcomp":
		a := packet.Ack{Type: ackTypes[name], PacketID: uint16(number(words[0]))}
		if len(words) > 1 {
			a.Reason = packet.Reason(number(words[1]))
		}
		return a.Append(nil, v), v
	case "subscribe":
		return parseSubscribe(words).Append(nil, v), v
	case "unsubscribe":
		u := packet.Unsubscribe{PacketID: uint16(number(words[0]))}
		for _, w := range words[1:] {
			u.Filters = append(u.Filters, []byte(w))
		}
		return u.Append(nil, v), v
	case "pingreq":
		return packet.AppendPingreq(nil), v
	case "disconnect":
		return parseDisconnect(words).Append(nil, v), v
	case "auth":
		return parseAuth(words).Append(nil, v), v
	}
	panic("brokertest: no packet " + name)
}

var ackTypes = map[string]packet.Type{
	"puback": packet.PUBACK, "pubrec": packet.PUBREC, "pubrel": packet.PUBREL, "pubcomp": packet.PUBCOMP,
}

func number(s string) uint64 {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		panic("brokertest: not a number: " + s)
	}
	return n
}

func parseConnect(words []string) ([]byte, packet.Version) {
	p := packet.Connect{Version: packet.V5}
	if words[0] != "-" {
		p.ClientID = []byte(words[0])
	}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "v3", "v4", "v5":
			p.Version = packet.Version(key[1] - '0')
		case "clean":
			p.CleanStart = true
		case "bridge":
			p.Bridge = true
		case "keepalive":
			p.KeepAlive = uint16(number(value))
		case "user":
			p.HasUsername, p.Username = true, []byte(value)
		case "pass":
			p.HasPassword, p.Password = true, []byte(value)
		case "expiry":
			p.Properties.SessionExpiry = uint32(number(value))
		case "receive":
			p.Properties.ReceiveMaximum = uint16(number(value))
		case "size":
			p.Properties.MaximumPacketSize = uint32(number(value))
		case "auth":
			p.Properties.AuthenticationMethod = []byte(value)
		case "data":
			p.Properties.AuthenticationData = []byte(value)
		case "aliases":
			p.Properties.TopicAliasMaximum = uint16(number(value))
		case "noproblem":
			p.Properties.SuppressProblemInformation = true
		case "asksresponse":
			p.Properties.RequestResponseInformation = true
		default:
			parseWill(&p, key, value)
		}
	}
	return p.Append(nil), p.Version
}

func parseWill(p *packet.Connect, key, value string) {
	p.HasWill = true
	switch key {
	case "will":
		p.Will.Topic = []byte(value)
	case "willqos":
		p.Will.QoS = byte(number(value))
	case "willretain":
		p.Will.Retain = true
	case "willdelay":
		p.Will.WillDelay = uint32(number(value))
	case "willexpiry":
		p.Will.HasExpiry, p.Will.Expiry = true, uint32(number(value))
	case "":
		p.Will.Payload = []byte(value)
	default:
		panic("brokertest: connect with " + key)
	}
}

func parsePublish(words []string) *packet.Publish {
	p := &packet.Publish{}
	if words[0] != "-" {
		p.Topic = []byte(words[0])
	}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "q1", "q2":
			p.QoS = key[1] - '0'
		case "id":
			p.PacketID = uint16(number(value))
		case "dup":
			p.Dup = true
		case "retain":
			p.Retain = true
		case "expiry":
			p.HasExpiry, p.Expiry = true, uint32(number(value))
		case "alias":
			p.TopicAlias = uint16(number(value))
		case "ids":
			for _, id := range strings.Split(value, ",") {
				p.SubscriptionIDs = append(p.SubscriptionIDs, uint32(number(id)))
			}
		case "type":
			p.ContentType = []byte(value)
		case "response":
			p.ResponseTopic = []byte(value)
		case "correlation":
			p.HasCorrelation, p.Correlation = true, []byte(value)
		case "format":
			p.HasPayloadFormat, p.PayloadFormat = true, byte(number(value))
		case "user":
			name, value, _ := strings.Cut(value, ":")
			p.UserProperties = append(p.UserProperties, packet.UserProperty{Name: []byte(name), Value: []byte(value)})
		case "":
			p.Payload = []byte(value)
		default:
			panic("brokertest: publish with " + key)
		}
	}
	return p
}

func parseSubscribe(words []string) *packet.Subscribe {
	p := &packet.Subscribe{PacketID: uint16(number(words[0]))}
	for _, w := range words[1:] {
		if id, ok := strings.CutPrefix(w, "id="); ok {
			p.SubscriptionID = uint32(number(id))
			continue
		}
		parts := strings.Split(w, ":")
		sub := packet.Subscription{Filter: []byte(parts[0]), QoS: byte(number(parts[1]))}
		for _, option := range parts[2:] {
			switch option {
			case "nl":
				sub.NoLocal = true
			case "rap":
				sub.RetainAsPublished = true
			case "rh1", "rh2":
				sub.RetainHandling = option[2] - '0'
			default:
				panic("brokertest: subscribe with " + option)
			}
		}
		p.Subscriptions = append(p.Subscriptions, sub)
	}
	return p
}

func parseDisconnect(words []string) *packet.Disconnect {
	p := &packet.Disconnect{}
	for _, w := range words {
		if expiry, ok := strings.CutPrefix(w, "expiry="); ok {
			p.HasSessionExpiry, p.SessionExpiry = true, uint32(number(expiry))
		} else {
			p.Reason = packet.Reason(number(w))
		}
	}
	return p
}

func parseAuth(words []string) *packet.Auth {
	p := &packet.Auth{}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "method":
			p.AuthenticationMethod = []byte(value)
		case "data":
			p.AuthenticationData = []byte(value)
		default:
			p.Reason = packet.Reason(number(w))
		}
	}
	return p
}

// Publish is the packet of a publish line.
func Publish(line string) *packet.Publish {
	words := strings.Fields(line)
	if words[0] != "publish" {
		panic("brokertest: not a publish: " + line)
	}
	return parsePublish(words[1:])
}

// Format is the line of a packet from the server, in the form of Parse and with these:
//
//	connack [present] 0xREASON [expiry=S] [receive=N] [size=N] [alias=N] [assigned] [keepalive=S] [noshared]
//	        [response=R] [server=S] [method=M] [data=D]
//	suback ID 0xREASON… · unsuback ID [0xREASON…] · pingresp · disconnect 0xREASON [server=S]
//	auth 0xREASON [method=M] [data=D]
//
// Before 5.0 the reason of connack is the return code. With brief, what every 5.0 CONNACK of the core announces by
// default is left out. Reason strings are left out too, see Why.
func Format(f packet.Frame, v packet.Version, brief bool) (string, error) {
	var b strings.Builder
	switch f.Type() {
	case packet.CONNACK:
		var p packet.Connack
		if err := p.Decode(f, v); err != nil {
			return "", err
		}
		formatConnack(&b, &p, v, brief)
	case packet.PUBLISH:
		var p packet.Publish
		if err := p.Decode(f, v); err != nil {
			return "", err
		}
		formatPublish(&b, &p)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		var p packet.Ack
		if err := p.Decode(f, v); err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %d", strings.ToLower(p.Type.String()), p.PacketID)
		if p.Reason != 0 {
			fmt.Fprintf(&b, " 0x%02X", byte(p.Reason))
		}
	case packet.SUBACK:
		var p packet.Suback
		if err := p.Decode(f, v); err != nil {
			return "", err
		}
		formatReasons(&b, "suback", p.PacketID, p.Reasons)
	case packet.UNSUBACK:
		var p packet.Unsuback
		if err := p.Decode(f, v); err != nil {
			return "", err
		}
		formatReasons(&b, "unsuback", p.PacketID, p.Reasons)
	case packet.PINGRESP:
		b.WriteString("pingresp")
	case packet.DISCONNECT:
		var p packet.Disconnect
		if err := p.Decode(f, v); err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "disconnect 0x%02X", byte(p.Reason))
		formatText(&b, "server", p.ServerReference)
	case packet.AUTH:
		var p packet.Auth
		if err := p.Decode(f, v); err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "auth 0x%02X", byte(p.Reason))
		formatText(&b, "method", p.AuthenticationMethod)
		formatText(&b, "data", p.AuthenticationData)
	default:
		return "", fmt.Errorf("brokertest: %v from a server", f.Type())
	}
	return b.String(), nil
}

// Why returns the reason string of a packet that Format can read; empty: it has none.
func Why(f packet.Frame, v packet.Version) string {
	var text []byte
	var err error
	switch f.Type() {
	case packet.CONNACK:
		var p packet.Connack
		err = p.Decode(f, v)
		text = p.Properties.ReasonString
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		var p packet.Ack
		err = p.Decode(f, v)
		text = p.ReasonString
	case packet.SUBACK:
		var p packet.Suback
		err = p.Decode(f, v)
		text = p.ReasonString
	case packet.UNSUBACK:
		var p packet.Unsuback
		err = p.Decode(f, v)
		text = p.ReasonString
	case packet.DISCONNECT:
		var p packet.Disconnect
		err = p.Decode(f, v)
		text = p.ReasonString
	}
	if err != nil {
		panic("brokertest: " + err.Error())
	}
	return string(text)
}

func formatText(b *strings.Builder, name string, value []byte) {
	if value != nil {
		fmt.Fprintf(b, " %s=%s", name, value)
	}
}

func formatReasons(b *strings.Builder, name string, id uint16, reasons []packet.Reason) {
	fmt.Fprintf(b, "%s %d", name, id)
	for _, r := range reasons {
		fmt.Fprintf(b, " 0x%02X", byte(r))
	}
}

func formatConnack(b *strings.Builder, p *packet.Connack, v packet.Version, brief bool) {
	b.WriteString("connack")
	if p.SessionPresent {
		b.WriteString(" present")
	}
	reason := byte(p.Reason)
	if v != packet.V5 {
		reason = p.Reason.ReturnCode()
	}
	fmt.Fprintf(b, " 0x%02X", reason)
	q := &p.Properties
	if q.HasSessionExpiry {
		fmt.Fprintf(b, " expiry=%d", q.SessionExpiry)
	}
	if !brief {
		fmt.Fprintf(b, " receive=%d size=%d alias=%d", q.ReceiveMaximum, q.MaximumPacketSize, q.TopicAliasMaximum)
	}
	if len(q.AssignedClientID) > 0 {
		b.WriteString(" assigned")
	}
	if q.HasServerKeepAlive {
		fmt.Fprintf(b, " keepalive=%d", q.ServerKeepAlive)
	}
	if q.NoSharedSubscription && !brief {
		b.WriteString(" noshared")
	}
	formatText(b, "response", q.ResponseInformation)
	formatText(b, "server", q.ServerReference)
	formatText(b, "method", q.AuthenticationMethod)
	formatText(b, "data", q.AuthenticationData)
}

func formatPublish(b *strings.Builder, p *packet.Publish) {
	b.WriteString("publish ")
	if len(p.Topic) == 0 {
		b.WriteString("-")
	}
	b.Write(p.Topic)
	if p.QoS > 0 {
		fmt.Fprintf(b, " q%d id=%d", p.QoS, p.PacketID)
	}
	if p.Dup {
		b.WriteString(" dup")
	}
	if p.Retain {
		b.WriteString(" retain")
	}
	if p.HasExpiry {
		fmt.Fprintf(b, " expiry=%d", p.Expiry)
	}
	for i, id := range p.SubscriptionIDs {
		fmt.Fprintf(b, "%s%d", map[bool]string{true: " ids=", false: ","}[i == 0], id)
	}
	if p.TopicAlias != 0 {
		fmt.Fprintf(b, " alias=%d", p.TopicAlias)
	}
	if p.ContentType != nil {
		fmt.Fprintf(b, " type=%s", p.ContentType)
	}
	if p.ResponseTopic != nil {
		fmt.Fprintf(b, " response=%s", p.ResponseTopic)
	}
	if p.HasCorrelation {
		fmt.Fprintf(b, " correlation=%s", p.Correlation)
	}
	if p.HasPayloadFormat {
		fmt.Fprintf(b, " format=%d", p.PayloadFormat)
	}
	for _, u := range p.UserProperties {
		fmt.Fprintf(b, " user=%s:%s", u.Name, u.Value)
	}
	if len(p.Payload) > 0 {
		fmt.Fprintf(b, " =%s", p.Payload)
	}
}
