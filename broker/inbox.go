package broker

import (
	"errors"
	"slices"
	"sync"

	"forebay/storage"
)

// Why a message was not taken from inside the process.
var (
	// ErrBusy: more waits for the loop than the inbox holds. Nothing was published; try again later.
	ErrBusy = errors.New("broker: too many messages are waiting to be published")

	// ErrClosed: the server has stopped. Nothing was published.
	ErrClosed = errors.New("broker: server is closed")
)

// Bounds of what may wait for the loop.
const (
	maxWaitingMessages = 8192
	maxWaitingBytes    = 16 << 20
	maxWaitingCalls    = 1024
	// messagesPerRound bounds the messages of one batch: devices are not to wait for those from inside.
	messagesPerRound = 512
)

// inbox is the only way from other goroutines into the loop. Whatever was posted while the loop was busy is taken as
// one batch, and the loop is woken once for it, or not at all when it is awake.
//
// It is bounded: messages by number and bytes (then their publisher is told ErrBusy), calls by number; of the log's
// progress only the latest is kept; of a queue that has more, each is there once; logins are bounded by the workers
// that check them, and a feed has one note of each kind.
type inbox struct {
	// wake makes a blocked loop return; it is called with mu held and must not block.
	wake func()

	mu       sync.Mutex
	mail     mail // guarded by mu
	sleeping bool // guarded by mu: the loop is about to block, or blocks
	closed   bool // guarded by mu: nothing is taken any more
}

// mail is one batch.
type mail struct {
	safe     storage.Seq // the log's progress; 0: none
	failed   error       // the log's failure
	queues   []uint32    // durable queues that may have more
	messages []injection
	bytes    int      // of messages
	calls    []func() // to be called in the loop
	logins   []loginAnswer
	feeds    []feedNote
	stop     bool // begin the end
}

// injection is a message from inside the process.
type injection struct {
	message *Message
	done    func(error)
}

func (i injection) size() int { return len(i.message.Topic) + len(i.message.Payload) }

func (m *mail) empty() bool {
	return m.safe == 0 && m.failed == nil && !m.stop &&
		len(m.queues) == 0 && len(m.messages) == 0 && len(m.calls) == 0 && len(m.logins) == 0 && len(m.feeds) == 0
}

// reset forgets the content and keeps the memory.
func (m *mail) reset() {
	clear(m.messages)
	clear(m.calls)
	clear(m.logins)
	clear(m.feeds)
	*m = mail{queues: m.queues[:0], messages: m.messages[:0], calls: m.calls[:0], logins: m.logins[:0], feeds: m.feeds[:0]}
}

// posted wakes the loop if it sleeps. Called with mu held, so that the waking never meets a closed descriptor.
func (in *inbox) posted() {
	if in.sleeping {
		in.sleeping = false
		in.wake()
	}
}

func (in *inbox) postSafe(seq storage.Seq, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return
	}
	in.mail.safe = max(in.mail.safe, seq)
	if err != nil {
		in.mail.failed = err
	}
	in.posted()
}

// postQueue says that a queue may have more. The caller posts each queue once until the loop has taken it.
func (in *inbox) postQueue(id uint32) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return
	}
	in.mail.queues = append(in.mail.queues, id)
	in.posted()
}

func (in *inbox) postMessage(i injection) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return ErrClosed
	}
	size := i.size()
	if len(in.mail.messages) >= maxWaitingMessages || in.mail.bytes > 0 && in.mail.bytes+size > maxWaitingBytes {
		return ErrBusy
	}
	in.mail.messages = append(in.mail.messages, i)
	in.mail.bytes += size
	in.posted()
	return nil
}

func (in *inbox) postCall(fn func()) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return ErrClosed
	}
	if len(in.mail.calls) >= maxWaitingCalls {
		return ErrBusy
	}
	in.mail.calls = append(in.mail.calls, fn)
	in.posted()
	return nil
}

func (in *inbox) postLogin(a loginAnswer) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return
	}
	in.mail.logins = append(in.mail.logins, a)
	in.posted()
}

func (in *inbox) postFeed(n feedNote) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return
	}
	in.mail.feeds = append(in.mail.feeds, n)
	in.posted()
}

func (in *inbox) postStop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return
	}
	in.mail.stop = true
	in.posted()
}

// take swaps the batch that has gathered for the empty one given. Messages beyond messagesPerRound stay for the next.
func (in *inbox) take(m *mail) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.sleeping = false
	in.mail, *m = *m, in.mail
	if len(m.messages) > messagesPerRound {
		for _, i := range m.messages[messagesPerRound:] {
			in.mail.messages = append(in.mail.messages, i)
			in.mail.bytes += i.size()
		}
		clear(m.messages[messagesPerRound:])
		m.messages = m.messages[:messagesPerRound]
	}
}

// giveBack puts messages that were taken and not worked on in front of those that have come since.
func (in *inbox) giveBack(rest []injection) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mail.messages = slices.Insert(in.mail.messages, 0, rest...)
	for _, i := range rest {
		in.mail.bytes += i.size()
	}
}

// sleep reports whether the loop may block: nothing has gathered. From now on a post wakes it.
func (in *inbox) sleep() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.sleeping = in.mail.empty()
	return in.sleeping
}

// close refuses every later post. What has gathered is handed out by a last take.
func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.sleeping = false
}
