package guard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/fsm"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// docs/design/bounds.md has the reasons of what is bounded, docs/design/hand-over.md that
// of partingTimeout and docs/design/guard.md that of readingTime.
const (
	// partingTimeout bounds the time to say goodbye.
	partingTimeout = time.Second
	// inwardRate is how many octets a second are read from a router. Nothing it
	// says is of use, so nothing it says shall cost much; TCP slows it down.
	inwardRate = 4 << 20
	// batch is how many octets of gobgp's go to the router in one write.
	batch = 1 << 16
	// backlog is how many octets may wait for a router that reads slowly: more
	// than the largest table of a session.
	backlog = 64 << 20
	// readingTime is how long a process that finds a hold timer expired, or the path
	// lost, gives itself to read what has arrived meanwhile.
	readingTime = 10 * time.Millisecond
)

// An Ending is why a session ended, or is to end.
type Ending = fsm.Ending

// Counters count messages. They outlive the Links that write them.
type Counters struct {
	MessagesIn, UpdatesIn, MalformedIn atomic.Uint64
	MessagesOut, UpdatesOut            atomic.Uint64
}

// A Link is a connection to a router, from OPEN on. The session on it is an
// [fsm.Session]; the Link gives it what arrives and when, and writes what it says.
type Link struct {
	conn     *Conn
	counters *Counters
	maximum  int
	// reading is readingTime.
	reading time.Duration
	// changed is called when a count has settled, doubt when the router seems silent.
	changed func()
	doubt   func(*bgp.Fault)

	// session, counted and start belong to whoever runs Open, Confirm or Run.
	session *fsm.Session
	counted fsm.Counts
	start   time.Time
	// asked are families whose table the router wants again.
	asked []wire.Family

	// out holds gobgp's UPDATEs until they are written.
	out queue
	// refresh carries the families of asked.
	refresh chan wire.Family
	// inbound carries what the reader reads; outbound gives the writer what to
	// write, and written what came of it.
	inbound  chan inbound
	outbound chan []byte
	written  chan error
	writing  bool
	// over is set when the Link has parted from the router.
	over bool
	// done is closed when the session is over; workers are the reader and the writer.
	done    chan struct{}
	workers sync.WaitGroup

	sent, received   atomic.Int64
	unsaid4, unsaid6 atomic.Int64
	tooMany          atomic.Bool
}

// An inbound is a message, or why there are no more.
type inbound struct {
	typ  wire.Type
	body []byte
	err  error
}

// NewLink wraps a connection to a router. Changed is called from the goroutine of
// Run when all that was to be sent has been, and must not block.
func NewLink(conn *Conn, maximumPrefixes int, counters *Counters, changed func()) *Link {
	if maximumPrefixes <= 0 {
		maximumPrefixes = bgp.DefaultMaximumPrefixes
	}
	return &Link{
		conn: conn, counters: counters, maximum: maximumPrefixes, reading: readingTime, changed: changed,
		out: queue{filled: make(chan struct{}, 1)}, refresh: make(chan wire.Family),
		inbound: make(chan inbound), outbound: make(chan []byte, 1), written: make(chan error, 1), done: make(chan struct{}),
	}
}

// Sent returns how many prefixes the router has been told and not been told to
// forget.
func (l *Link) Sent() int { return int(l.sent.Load()) }

// Unsaid returns how many routes the router should have been told and could not be
// (see [fsm.Session.Unsaid]).
func (l *Link) Unsaid(f lb.Family) int {
	if f == lb.IPv4 {
		return int(l.unsaid4.Load())
	}
	return int(l.unsaid6.Load())
}

// Received returns how many prefixes the router announces, and whether there
// are more than are counted.
func (l *Link) Received() (int, bool) { return int(l.received.Load()), l.tooMany.Load() }

// An Opening is how a session begins.
type Opening struct {
	// Open is our OPEN.
	Open wire.Open
	// Judge gives the terms on which the router's OPEN is accepted. An error that is a
	// [*wire.Error] is told to the router.
	Judge func(theirs wire.Open) (bgp.Negotiated, error)
	// Silence says what it may mean that the router does not answer.
	Silence func(bgp.State, bgp.Trace) *bgp.Fault
	// Doubt is called with it while the router is still waited for, from the goroutine
	// of Open or Confirm.
	Doubt func(*bgp.Fault)
}

// Open exchanges OPENs. An error of Open is an [*Ending]; the connection is then
// closed.
func (l *Link) Open(ctx context.Context, o Opening) (bgp.Negotiated, error) {
	l.doubt = o.Doubt
	l.start = time.Now()
	l.workers.Go(l.read)
	l.workers.Go(l.write)
	var first fsm.Effects
	l.session, first = fsm.New(fsm.Config{Open: o.Open, Silence: o.Silence, Judge: o.Judge, MaximumPrefixes: l.maximum, Jitter: rand.Float64}, 0)
	end := l.apply(first)
	for end == nil && l.session.State() < bgp.OpenConfirm {
		end = l.step(ctx, nil)
	}
	if end != nil {
		return bgp.Negotiated{}, end
	}
	return l.session.Negotiated(), nil
}

// Confirm exchanges the KEEPALIVEs that make the session established. An error
// is an [*Ending]; the connection is then closed.
func (l *Link) Confirm(ctx context.Context) error {
	// The router may confirm before ours has left.
	for l.session.State() < bgp.Established || l.writing {
		if end := l.step(ctx, nil); end != nil {
			return end
		}
	}
	return nil
}

// Refreshes carries the families whose table the router asks for again, while Run
// runs.
func (l *Link) Refreshes() <-chan wire.Family { return l.refresh }

// Run holds the established session until it falls or is told on endings to end,
// and returns why. What is announced comes from the [Backend] that the link is
// attached to.
func (l *Link) Run(endings <-chan Ending) Ending {
	for {
		if end := l.step(context.Background(), endings); end != nil {
			return *end
		}
	}
}

// step gives the session the next that happens. When the session is over it parts from
// the router and returns why.
func (l *Link) step(ctx context.Context, endings <-chan Ending) (end *Ending) {
	defer func() {
		if p := recover(); p != nil {
			e := fsm.Internal(fmt.Errorf("panic: %v", p))
			if end = &e; l.over {
				l.conn.Close()
				return
			}
			l.part(e)
		}
	}()
	var timer <-chan time.Time
	if at, any := l.session.Next(); any {
		t := time.NewTimer(max(at-time.Since(l.start), 0))
		defer t.Stop()
		timer = t.C
	}
	// What gobgp says waits for the router, and is not held twice.
	var filled <-chan struct{}
	if l.session.Ready() {
		filled = l.out.filled
	}
	var refresh chan<- wire.Family
	var family wire.Family
	if len(l.asked) > 0 {
		refresh, family = l.refresh, l.asked[0]
	}
	var e fsm.Effects
	select {
	case <-ctx.Done():
		e = l.session.Close(Ending{Fault: &bgp.Fault{Cause: bgp.Leave, Text: "no longer wanted"}})
	case why := <-endings:
		if e = l.heed(why); e.End == nil {
			e = l.session.Close(why)
		}
	case in := <-l.inbound:
		e = l.take(in)
	case err := <-l.written:
		e = l.wrote(err)
	case <-filled:
		e = l.say()
	case refresh <- family:
		l.asked = l.asked[1:]
	case <-timer:
		e = l.tick()
	}
	if end = l.apply(e); end != nil {
		l.part(*end)
	}
	return end
}

// heed reads what has arrived for a moment before the session ends because BFD has lost
// the router: one that goes may have said why, and that counts for more.
func (l *Link) heed(why Ending) fsm.Effects {
	if why.Fault.Cause != bgp.BFDDown {
		return fsm.Effects{}
	}
	timer := time.NewTimer(l.reading)
	defer timer.Stop()
	for {
		select {
		case in := <-l.inbound:
			if e := l.take(in); e.End != nil {
				if e.End.Fault.Cause != bgp.Notified {
					e.End = &why
				}
				return e
			}
		case <-timer.C:
			return fsm.Effects{}
		}
	}
}

func (l *Link) take(in inbound) fsm.Effects {
	now := time.Since(l.start)
	if in.err != nil {
		return l.session.Lost(lossOf(in.err), now)
	}
	return l.session.Receive(in.typ, in.body, now)
}

func (l *Link) wrote(err error) fsm.Effects {
	now := time.Since(l.start)
	if l.writing = false; err != nil {
		return l.session.WriteFailed(lossOf(err), now)
	}
	if l.out.empty() {
		defer l.changed()
	}
	return l.session.Wrote(now)
}

// say lets gobgp say more. The frames it takes are of one batch.
func (l *Link) say() fsm.Effects {
	frames, whole := l.out.take(nil, batch)
	if !whole {
		return l.session.Close(Ending{Fault: &bgp.Fault{Cause: bgp.SendTimeout, Text: "the router reads too slowly"}})
	}
	e := l.session.Say(frames, time.Since(l.start))
	if len(e.Write) == 0 && l.out.empty() {
		defer l.changed()
	}
	return e
}

// tick lets time pass. Before the router is called silent, the reader gets the time to
// hand over what has arrived, and the kernel is asked for what has not been read.
func (l *Link) tick() fsm.Effects {
	if l.session.Silent(time.Since(l.start)) {
		timer := time.NewTimer(l.reading)
		defer timer.Stop()
		select {
		case in := <-l.inbound:
			return l.take(in)
		case <-timer.C:
		}
	}
	return l.session.Tick(time.Since(l.start), l.unread(), l.conn.trace)
}

// apply carries out what the session asks for, and returns its end.
func (l *Link) apply(e fsm.Effects) *Ending {
	if len(e.Write) > 0 {
		l.writing = true
		l.outbound <- e.Write
	}
	if f := e.Refresh; f != nil {
		l.ask(*f)
	}
	if e.Doubt != nil {
		l.doubt(e.Doubt)
	}
	was, now := l.counted, l.session.Counts()
	l.counted = now
	l.counters.MessagesIn.Add(now.MessagesIn - was.MessagesIn)
	l.counters.UpdatesIn.Add(now.UpdatesIn - was.UpdatesIn)
	l.counters.MalformedIn.Add(now.MalformedIn - was.MalformedIn)
	l.counters.MessagesOut.Add(now.MessagesOut - was.MessagesOut)
	l.counters.UpdatesOut.Add(now.UpdatesOut - was.UpdatesOut)
	if !l.writing {
		l.sent.Store(int64(l.session.Sent()))
		v4, v6 := int64(l.session.Unsaid(lb.IPv4)), int64(l.session.Unsaid(lb.IPv6))
		if was4, was6 := l.unsaid4.Swap(v4), l.unsaid6.Swap(v6); was4 != v4 || was6 != v6 {
			defer l.changed()
		}
	}
	n, more := l.session.Received()
	l.received.Store(int64(n))
	if more && !l.tooMany.Swap(true) {
		l.changed()
	}
	return e.End
}

// ask notes that the router wants a table again, once however often it asks.
func (l *Link) ask(f wire.Family) {
	for _, a := range l.asked {
		if a == f {
			return
		}
	}
	l.asked = append(l.asked, f)
}

// update queues an UPDATE of gobgp's. It does not wait for a slow router: that is
// for the send hold timer to judge.
func (l *Link) update(frame []byte) { l.out.put(frame) }

// A queue holds frames between gobgp and a router.
type queue struct {
	mu     sync.Mutex
	frames [][]byte
	octets int
	// filled has an element when there are frames.
	filled chan struct{}
}

func (q *queue) put(frame []byte) {
	q.mu.Lock()
	if q.octets += len(frame); q.octets <= backlog+wire.MaxLen {
		q.frames = append(q.frames, frame)
	}
	q.mu.Unlock()
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

// take moves frames to into, as many as fit limit octets, and reports whether
// the queue has not run over.
func (q *queue) take(into [][]byte, limit int) ([][]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, taken := 0, 0
	for n < len(q.frames) && taken+len(q.frames[n]) <= limit {
		taken += len(q.frames[n])
		n++
	}
	into = append(into, q.frames[:n]...)
	whole := q.octets <= backlog
	q.octets -= taken
	if q.frames = q.frames[n:]; len(q.frames) == 0 {
		q.frames = nil
	} else {
		select {
		case q.filled <- struct{}{}:
		default:
		}
	}
	return into, whole
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.frames) == 0
}

// read reads until the connection ends. What comes after the session is over, or after
// what is no message, is thrown away.
func (l *Link) read() {
	defer func() { _, _ = io.Copy(io.Discard, l.conn) }()
	r := bufio.NewReaderSize(l.conn, wire.MaxLen)
	pace := pace{since: time.Now()}
	for {
		var in inbound
		frame, err := readFrame(r)
		if err != nil {
			in.err = err
		} else {
			in.typ, in.body = wire.Type(frame[18]), frame[wire.HeaderLen:]
		}
		select {
		case l.inbound <- in:
		case <-l.done:
			return
		}
		if err != nil {
			return
		}
		pace.spent(len(frame), l.done)
	}
}

// write writes what it is given until there is no more.
func (l *Link) write() {
	for b := range l.outbound {
		_, err := l.conn.Write(b)
		l.written <- err
	}
}

// unread reports whether the kernel holds something of the router's.
func (l *Link) unread() bool {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n > 0
}

// part says the last words, if there are any, and closes the connection. The
// router gets the time to read all of it: closing a socket with unread data resets
// the connection. A reset overtakes a NOTIFICATION; and graceful restart wants the
// plain end of the connection, not an error that a router meets while it writes.
func (l *Link) part(e Ending) {
	defer l.conn.Close()
	l.over = true
	close(l.done)
	_ = l.conn.SetDeadline(time.Now().Add(partingTimeout))
	// What is being written may take this long yet, so that the last words stand at
	// the beginning of a message.
	whole := true
	if l.writing {
		whole = <-l.written == nil
	}
	close(l.outbound)
	if whole && e.Notification != nil {
		_, err := l.conn.Write(wire.AppendNotification(nil, *e.Notification))
		whole = err == nil
	}
	if whole && l.conn.CloseWrite() == nil {
		l.workers.Wait() // until the router has closed its end, or the time is over
	}
	l.conn.Close()
	l.workers.Wait()
}

// A pace keeps reading to inwardRate.
type pace struct {
	since  time.Time
	octets int
}

// spent accounts for what was read, and waits when it was too much.
func (p *pace) spent(octets int, done <-chan struct{}) {
	if p.octets += octets; p.octets < inwardRate/8 {
		return
	}
	due := time.Duration(p.octets) * time.Second / inwardRate
	if wait := due - time.Since(p.since); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-done:
		}
	}
	p.since, p.octets = time.Now(), 0
}

// lossOf puts an error of the connection in words.
func lossOf(err error) fsm.Loss {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fsm.Loss{Err: err, Text: "the router closed the connection"}
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return fsm.Loss{Err: err, Text: "the router reset the connection"}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fsm.Loss{Err: err, Text: "the connection was interrupted"}
	default:
		return fsm.Loss{Err: err, Text: fmt.Sprintf("connection lost: %v", rootOf(err))}
	}
}
