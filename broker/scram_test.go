package broker

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"forebay/broker/packet"
)

// The example of RFC 7677, section 3: user "user", password "pencil".
func TestScramSecretOfTheStandard(t *testing.T) {
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	s, err := deriveScram([]byte("pencil"), salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	users := &userFile{users: map[string]*passwordHash{"user": {scram: &s}}}
	server := newScramServer(users)
	server.server.WithNonceGenerator(func() string { return "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0" })
	c := server.server.NewConversation()
	first, err := c.Step("n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
	if want := "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"; err != nil || first != want {
		t.Fatalf("first %q, %v", first, err)
	}
	last, err := c.Step("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
	if want := "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="; err != nil || last != want || !c.Valid() {
		t.Errorf("last %q, %v", last, err)
	}
}

func TestScramSecretInTheFile(t *testing.T) {
	s, err := newScramSecret([]byte("sécret"), 4096)
	if err != nil {
		t.Fatal(err)
	}
	u, err := parseUsers([]byte("sam:" + s.String() + "\n" + userLines))
	if err != nil {
		t.Fatal(err)
	}
	if got := u.users["sam"].scram.String(); got != s.String() {
		t.Errorf("read as %s, was %s", got, s)
	}
	right := func(name, password string) bool { return u.verify(name, []byte(password)) != nil }
	if !right("sam", "sécret") || right("sam", "secret") || right("sam", "") || right("sam", "\xFF") {
		t.Error("the password is not checked")
	}
	if !right("alice", "secret") {
		t.Error("the others are not")
	}
	good := s.String()
	for name, line := range map[string]string{
		"too few iterations":  strings.Replace(good, "$4096$", "$4095$", 1),
		"too many iterations": strings.Replace(good, "$4096$", "$4000000$", 1),
		"no number":           strings.Replace(good, "$4096$", "$x$", 1),
		"a field less":        good[:strings.LastIndexByte(good, '$')],
		"not Base64":          good + "!",
		"a short key":         good[:strings.LastIndexByte(good, '$')] + "$AAAA",
	} {
		if _, err := parseUsers([]byte("x:" + line)); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), good[30:60]) {
			t.Errorf("%s: the error tells the secret: %v", name, err)
		}
	}
}

// scramClient is a device that logs in with SCRAM-SHA-256.
type scramClient struct {
	*client
	talk *scram.ClientConversation
}

// auth reads an AUTH with that reason.
func (c *scramClient) auth(want packet.Reason) packet.Auth {
	c.t.Helper()
	var p packet.Auth
	if err := p.Decode(c.expect(packet.AUTH), packet.V5); err != nil {
		c.t.Fatal(err)
	}
	if p.Reason != want || string(p.AuthenticationMethod) != scramMethod {
		c.t.Fatalf("AUTH %v %s, want %v", p.Reason, p.AuthenticationMethod, want)
	}
	return p
}

// answer goes one step on; the server's signature is checked there.
func (c *scramClient) answer(data []byte) []byte {
	c.t.Helper()
	text, err := c.talk.Step(string(data))
	if err != nil {
		c.t.Fatalf("the server's answer %q: %v", data, err)
	}
	return []byte(text)
}

func (c *scramClient) begin(user, password string) []byte {
	c.t.Helper()
	s, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		c.t.Fatal(err)
	}
	c.talk = s.NewConversation()
	return c.answer(nil)
}

// login sends CONNECT and returns the CONNACK.
func (c *scramClient) login(id, user, password string) packet.Connack {
	c.t.Helper()
	p := packet.Connect{Version: packet.V5, CleanStart: true, ClientID: []byte(id)}
	p.Properties.AuthenticationMethod = []byte(scramMethod)
	p.Properties.AuthenticationData = c.begin(user, password)
	c.send(p.Append(nil))
	first := c.auth(packet.ReasonContinueAuthentication)
	last := packet.Auth{Reason: packet.ReasonContinueAuthentication, AuthenticationMethod: []byte(scramMethod), AuthenticationData: c.answer(first.AuthenticationData)}
	c.send(last.Append(nil, packet.V5))
	var ack packet.Connack
	if err := ack.Decode(c.expect(packet.CONNACK), packet.V5); err != nil {
		c.t.Fatal(err)
	}
	return ack
}

func TestScramLogin(t *testing.T) {
	dir := t.TempDir()
	s, err := newScramSecret([]byte("secret"), 4096)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Listeners: []ListenerConfig{{Address: "127.0.0.1:0"}}, PasswordFile: filepath.Join(dir, "passwd"), ACLFile: filepath.Join(dir, "acl")}
	for name, text := range map[string]string{"passwd": "sam:" + s.String() + "\n", "acl": "user sam\ntopic readwrite sam/#\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := start(t, cfg)

	c := &scramClient{client: dial(t, g.addr(), packet.V5)}
	ack := c.login("a", "sam", "secret")
	if ack.Reason != packet.ReasonSuccess || string(ack.Properties.AuthenticationMethod) != scramMethod {
		t.Fatalf("CONNACK %+v", ack)
	}
	c.answer(ack.Properties.AuthenticationData)
	if !c.talk.Valid() {
		t.Error("the server has not proved that it knows the secret")
	}
	// The access file knows the name.
	c.send((&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: []byte("sam/x")}, {Filter: []byte("y")}}}).Append(nil, packet.V5))
	var suback packet.Suback
	if err := suback.Decode(c.expect(packet.SUBACK), packet.V5); err != nil || suback.Reasons[0] != 0 || suback.Reasons[1] != packet.ReasonNotAuthorized {
		t.Errorf("SUBACK %+v, %v", suback, err)
	}

	// Once more, on the same connection.
	again := packet.Auth{Reason: packet.ReasonReauthenticate, AuthenticationMethod: []byte(scramMethod), AuthenticationData: c.begin("sam", "secret")}
	c.send(again.Append(nil, packet.V5))
	again.Reason, again.AuthenticationData = packet.ReasonContinueAuthentication, c.answer(c.auth(packet.ReasonContinueAuthentication).AuthenticationData)
	c.send(again.Append(nil, packet.V5))
	c.answer(c.auth(packet.ReasonSuccess).AuthenticationData)
	if !c.talk.Valid() {
		t.Error("the server has not proved itself again")
	}

	// A wrong password and a wrong name look alike.
	for _, who := range [][2]string{{"sam", "wrong"}, {"nobody", "secret"}} {
		c := &scramClient{client: dial(t, g.addr(), packet.V5)}
		if ack := c.login("b", who[0], who[1]); ack.Reason != packet.ReasonNotAuthorized || ack.Properties.AuthenticationData != nil {
			t.Errorf("%q: CONNACK %+v", who, ack)
		}
		c.expectClosed()
	}

	// The same user with the password itself.
	plain := dial(t, g.addr(), packet.V311)
	if ack := plain.connect(packet.Connect{ClientID: []byte("c"), CleanStart: true, HasUsername: true, Username: []byte("sam"), HasPassword: true, Password: []byte("secret")}); ack.Reason != packet.ReasonSuccess {
		t.Errorf("CONNACK %+v", ack)
	}
}

// Without a secret in the password file the method is not offered.
func TestScramIsNotOffered(t *testing.T) {
	g := start(t, anyPort())
	c := dial(t, g.addr(), packet.V5)
	p := packet.Connect{ClientID: []byte("a")}
	p.Properties.AuthenticationMethod, p.Properties.AuthenticationData = []byte(scramMethod), []byte("n,,n=a,r=b")
	if ack := c.connect(p); ack.Reason != packet.ReasonBadAuthenticationMethod {
		t.Errorf("CONNACK %+v", ack)
	}
}

func FuzzScram(f *testing.F) {
	f.Add("n,,n=user,r=rOprNGfwEbeRWgbNEkqO", "c=biws,r=rOprNGfwEbeRWgbNEkqOx,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
	f.Add("y,a=other,n=us=2Cer,r=x", "c=eSws,r=xx,p=")
	f.Add("p=tls-unique,,n=user,r=x", "")
	secret, err := deriveScram([]byte("pencil"), []byte("salt"), 4096)
	if err != nil {
		f.Fatal(err)
	}
	server := newScramServer(&userFile{users: map[string]*passwordHash{"user": {scram: &secret}}})
	server.server.WithNonceGenerator(func() string { return "x" })
	f.Fuzz(func(t *testing.T, first, last string) {
		c := server.server.NewConversation()
		_, err1 := c.Step(first)
		_, err2 := c.Step(last)
		if c.Valid() && (err1 != nil || err2 != nil) {
			t.Error("logged in with an error")
		}
	})
}
