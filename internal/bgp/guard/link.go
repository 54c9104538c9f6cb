package guard

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/wire"
)

const (
	// openTimeout bounds the wait for a router's OPEN and for the KEEPALIVE that
	// confirms ours. RFC 4271 suggests four minutes; a router that needs more
	// than one is better tried again.
	openTimeout = time.Minute
	// silentSendTimeout is the send hold time of a session without keepalives
	// (RFC 9687 section 4.4).
	silentSendTimeout = 8 * time.Minute
	// partingTimeout bounds the time to say goodbye.
	partingTimeout = time.Second
	// inwardRate is how many octets a second are read from a router. Nothing it
	// says is of use, so nothing it says shall cost much; TCP slows it down.
	inwardRate = 4 << 20
	// batch is how many octets at most go to the router in one write.
	batch = 1 << 16
	// backlog is how many octets may wait for a router that reads slowly: more
	// than the largest table of a session.
	backlog = 64 << 20
)

// An Ending is why a session ended, or is to end.
type Ending struct {
	Fault *bgp.Fault
	// Notification is what the router is told; nil closes the connection without
	// a word, so that a router that has agreed on graceful restart keeps our
	// routes.
	Notification *wire.Notification
}

// Error returns the fault's text.
func (e *Ending) Error() string { return e.Fault.Text }

// Counters count messages. They outlive the Links that write them.
type Counters struct {
	MessagesIn, UpdatesIn, MalformedIn atomic.Uint64
	MessagesOut, UpdatesOut            atomic.Uint64
}

// A Link is a connection to a router, from OPEN on.
type Link struct {
	conn     *net.TCPConn
	r        *bufio.Reader
	counters *Counters
	// maximum is how many received prefixes are remembered, to be counted.
	maximum int
	// changed is called when a count has settled.
	changed func()

	negotiated bgp.Negotiated
	// out holds frames for the writer.
	out queue
	// refresh carries the families that the router asks for.
	refresh chan wire.Family
	// done is closed when the session is to end.
	done chan struct{}

	sent, received atomic.Int64
	tooMany        atomic.Bool
}

// NewLink wraps a connection to a router. Changed is called from the link's
// goroutines when all that was to be sent has been, and must not block.
func NewLink(conn *net.TCPConn, maximumPrefixes int, counters *Counters, changed func()) *Link {
	if maximumPrefixes <= 0 {
		maximumPrefixes = bgp.DefaultMaximumPrefixes
	}
	return &Link{
		conn: conn, r: bufio.NewReaderSize(conn, wire.MaxLen), counters: counters, maximum: maximumPrefixes, changed: changed,
		out: queue{filled: make(chan struct{}, 1)}, refresh: make(chan wire.Family), done: make(chan struct{}),
	}
}

// Sent returns how many prefixes the router has been told and not been told to
// forget, as written to its connection.
func (l *Link) Sent() int { return int(l.sent.Load()) }

// Received returns how many prefixes the router announces, and whether there
// are more than are counted.
func (l *Link) Received() (int, bool) { return int(l.received.Load()), l.tooMany.Load() }

// Close closes the connection without a word. It is for a Link that does not
// run.
func (l *Link) Close() { l.conn.Close() }

// Open exchanges OPENs: it sends ours, and gives the router's to judge, whose
// error is told to the router when it is a [*wire.Error]. An error of Open is an
// [*Ending]; the connection is then closed.
func (l *Link) Open(ctx context.Context, ours wire.Open, judge func(wire.Open) (bgp.Negotiated, error)) (bgp.Negotiated, error) {
	defer l.interruptible(ctx)()
	_ = l.conn.SetDeadline(time.Now().Add(openTimeout))
	l.counters.MessagesOut.Add(2) // OPEN and the KEEPALIVE of Confirm, or the NOTIFICATION in its place
	typ, body, err := l.exchange(wire.AppendOpen(nil, ours))
	if err != nil {
		return bgp.Negotiated{}, l.end(ctx, lost(err, bgp.ClosedBeforeOpen))
	}
	switch typ {
	case wire.TypeOpen:
	case wire.TypeNotification:
		return bgp.Negotiated{}, l.end(ctx, notified(body))
	default:
		return bgp.Negotiated{}, l.end(ctx, unexpected(1, typ))
	}
	theirs, err := wire.ParseOpen(body)
	if err == nil {
		l.negotiated, err = judge(theirs)
	}
	if err != nil {
		return bgp.Negotiated{}, l.end(ctx, rejected(err, bgp.OpenRejected))
	}
	return l.negotiated, nil
}

// Confirm exchanges the KEEPALIVEs that make the session established. An error
// is an [*Ending]; the connection is then closed.
func (l *Link) Confirm(ctx context.Context) error {
	defer l.interruptible(ctx)()
	wait := openTimeout
	if l.negotiated.HoldTime > 0 {
		wait = l.negotiated.HoldTime
	}
	_ = l.conn.SetDeadline(time.Now().Add(wait))
	typ, body, err := l.exchange(wire.AppendKeepalive(nil))
	switch {
	case err != nil:
		return l.end(ctx, lost(err, bgp.ConnectionLost))
	case typ == wire.TypeNotification:
		return l.end(ctx, notified(body))
	case typ != wire.TypeKeepalive:
		return l.end(ctx, unexpected(2, typ))
	}
	_ = l.conn.SetDeadline(time.Time{})
	return nil
}

// Refreshes carries the families whose table the router asks for again. It must
// be read while Run runs.
func (l *Link) Refreshes() <-chan wire.Family { return l.refresh }

// Run holds the established session until it falls or is told on endings to end,
// and returns why. What is announced comes from the [Inner] that the link is
// attached to.
func (l *Link) Run(endings <-chan Ending) Ending {
	read, written := make(chan Ending, 1), make(chan Ending, 1)
	whole := false
	var wg sync.WaitGroup
	wg.Go(func() { read <- contained(l.readAll) })
	wg.Go(func() {
		written <- contained(func() (e Ending) {
			e, whole = l.writeAll()
			return e
		})
	})
	var end Ending
	select {
	case end = <-endings:
	case end = <-read:
	case end = <-written:
		if end.Fault.Cause == bgp.ConnectionLost {
			end = lastWords(end, read)
		}
	}
	close(l.done)
	_ = l.conn.SetReadDeadline(time.Unix(1, 0))
	// What is being written may take this long yet, so that the last words
	// stand at the beginning of a message.
	_ = l.conn.SetWriteDeadline(time.Now().Add(partingTimeout))
	wg.Wait()
	if !whole {
		end.Notification = nil
	}
	l.part(end)
	return end
}

// lastWords returns the end that a router's NOTIFICATION brings, if there is one
// to be read on a connection that does not take any more: a router that closes it
// with something of ours unread resets it, and to write finds out first.
func lastWords(end Ending, read <-chan Ending) Ending {
	timer := time.NewTimer(partingTimeout)
	defer timer.Stop()
	select {
	case said := <-read:
		if said.Fault.Cause == bgp.Notified {
			return said
		}
	case <-timer.C: // the reader is held up by something else
	}
	return end
}

// update queues an UPDATE of ours. It does not wait for a slow router: that is
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

// readAll reads until the session ends.
func (l *Link) readAll() Ending {
	prefixes := map[netip.Prefix]struct{}{}
	pace := pace{since: time.Now()}
	for {
		// The hold timer runs from one whole message to the next. It is set
		// before done is looked at, so that Run's own deadline comes last.
		if hold := l.negotiated.HoldTime; hold > 0 {
			_ = l.conn.SetReadDeadline(time.Now().Add(hold))
		}
		select {
		case <-l.done:
			return Ending{Fault: &bgp.Fault{Cause: bgp.ConnectionLost}}
		default:
		}
		typ, body, err := l.read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return Ending{&bgp.Fault{Cause: bgp.HoldTimerExpired, Text: "hold timer expired"}, &wire.Notification{Code: wire.CodeHoldTimer}}
		} else if err != nil {
			return *lost(err, bgp.ConnectionLost)
		}
		switch typ {
		case wire.TypeKeepalive:
		case wire.TypeUpdate:
			l.counters.UpdatesIn.Add(1)
			l.count(prefixes, body)
		case wire.TypeNotification:
			return *notified(body)
		case wire.TypeRouteRefresh:
			f, ordinary, err := wire.ParseRouteRefresh(body)
			if err != nil {
				return *rejected(err, bgp.Malformed)
			}
			if ordinary && l.carries(f) {
				select {
				case l.refresh <- f:
				case <-l.done:
				}
			}
		default:
			return *unexpected(3, typ)
		}
		pace.spent(wire.HeaderLen+len(body), l.done)
	}
}

// carries reports whether a family is part of the session.
func (l *Link) carries(f wire.Family) bool {
	for _, n := range l.negotiated.Families {
		if bgp.WireFamily(n) == f {
			return true
		}
	}
	return false
}

// count keeps the set of prefixes that a router announces, up to the maximum.
// An UPDATE that is not well formed is no reason to lose the session: it would
// have been dropped anyhow (RFC 7606 in spirit).
func (l *Link) count(prefixes map[netip.Prefix]struct{}, body []byte) {
	_, err := wire.ParseUpdate(body, func(c wire.Change) {
		if c.Withdrawn {
			delete(prefixes, c.Prefix)
		} else if len(prefixes) < l.maximum {
			prefixes[c.Prefix] = struct{}{}
		} else if _, known := prefixes[c.Prefix]; !known && !l.tooMany.Swap(true) {
			l.changed()
		}
	})
	if err != nil {
		l.counters.MalformedIn.Add(1)
	}
	l.received.Store(int64(len(prefixes)))
}

// writeAll writes until the session ends, and reports whether what it wrote is
// whole messages.
func (l *Link) writeAll() (end Ending, whole bool) {
	var keepalive <-chan time.Time
	timeout := silentSendTimeout
	if l.negotiated.HoldTime > 0 {
		ticker := time.NewTicker(l.negotiated.KeepaliveTime)
		defer ticker.Stop()
		keepalive = ticker.C
		// A router that takes nothing for so long does not see our keepalives
		// either; RFC 9687 makes this the send hold timer.
		timeout = l.negotiated.HoldTime
	}
	sent := map[netip.Prefix]struct{}{}
	terms := l.negotiated.Terms()
	var buf []byte
	var frames [][]byte
	for {
		if buf, frames = buf[:0], frames[:0]; cap(buf) > wire.MaxLen && l.out.empty() {
			buf, frames = nil, nil // a table is sent seldom, and sessions are many
		}
		var messages, updates uint64
		select {
		case <-l.done:
			return Ending{}, true
		case <-keepalive:
			buf, messages = wire.AppendKeepalive(buf), 1
		case <-l.out.filled:
			var whole bool
			if frames, whole = l.out.take(frames, batch); !whole {
				return Ending{Fault: &bgp.Fault{Cause: bgp.SendTimeout, Text: "the router reads too slowly"}}, true
			}
			for _, frame := range frames {
				var n uint64
				buf, n = l.spell(buf, terms, frame, sent)
				messages += n
				updates += n
			}
		}
		_ = l.conn.SetWriteDeadline(time.Now().Add(timeout))
		select {
		case <-l.done:
			return Ending{}, true
		default:
		}
		if err := l.write(buf); errors.Is(err, os.ErrDeadlineExceeded) {
			return Ending{Fault: &bgp.Fault{Cause: bgp.SendTimeout, Text: fmt.Sprintf("the router has read nothing for %v", timeout)}}, false
		} else if err != nil {
			return *lost(err, bgp.ConnectionLost), false
		}
		l.counters.MessagesOut.Add(messages)
		l.counters.UpdatesOut.Add(updates)
		l.sent.Store(int64(len(sent)))
		if l.out.empty() {
			l.changed()
		}
	}
}

// spell appends what the terms let be said of an UPDATE of gobgp's, returns how many
// messages that is, and keeps the set of prefixes that the router has been told. What
// it was told of a route that cannot be said any more is withdrawn. An UPDATE that is
// not well formed is left out: the routes in it then lack in what is sent.
func (l *Link) spell(buf []byte, terms wire.Terms, frame []byte, sent map[netip.Prefix]struct{}) ([]byte, uint64) {
	if end, _ := wire.ParseUpdate(frame[wire.HeaderLen:], func(wire.Change) {}); end != nil {
		if !l.negotiated.EndOfRIB || !terms.Carries(*end) {
			return buf, 0
		}
		return append(buf, frame...), 1
	}
	from := len(buf)
	var stale []netip.Prefix
	buf, _ = terms.AppendUpdate(buf, frame[wire.HeaderLen:], func(p netip.Prefix, told wire.Told) {
		_, has := sent[p]
		switch {
		case told == wire.Announced:
			sent[p] = struct{}{}
		case told == wire.Unsayable && has:
			stale = append(stale, p)
			fallthrough
		default:
			delete(sent, p)
		}
	})
	buf = terms.AppendWithdrawals(buf, stale)
	return buf, wire.Count(buf[from:])
}

// exchange writes a message and reads one. What the router said before it reset
// the connection counts for more than that it did.
func (l *Link) exchange(b []byte) (wire.Type, []byte, error) {
	unsaid := l.write(b)
	typ, body, err := l.read()
	if err != nil {
		err = cmp.Or(unsaid, err)
	}
	return typ, body, err
}

// read reads one message.
func (l *Link) read() (wire.Type, []byte, error) {
	frame, err := readFrame(l.r)
	if err != nil {
		return 0, nil, err
	}
	l.counters.MessagesIn.Add(1)
	return wire.Type(frame[18]), frame[wire.HeaderLen:], nil
}

func (l *Link) write(b []byte) error {
	_, err := l.conn.Write(b)
	return err
}

// end parts from the router before the session was established.
func (l *Link) end(ctx context.Context, e *Ending) error {
	if ctx.Err() != nil {
		e = &Ending{Fault: &bgp.Fault{Cause: bgp.Leave, Text: "no longer wanted"}}
	}
	l.part(*e)
	return e
}

// part says the last words, if there are any, and closes the connection. The
// router gets the time to read all of it: closing a socket with unread data resets
// the connection. A reset overtakes a NOTIFICATION; and graceful restart wants the
// plain end of the connection, not an error that a router meets while it writes.
func (l *Link) part(e Ending) {
	defer l.conn.Close()
	_ = l.conn.SetDeadline(time.Now().Add(partingTimeout))
	if e.Notification != nil && l.write(wire.AppendNotification(nil, *e.Notification)) != nil {
		return
	}
	if l.conn.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, l.conn)
	}
}

// interruptible lets the end of ctx interrupt what the connection is doing,
// until the function it returns is called.
func (l *Link) interruptible(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Unix(1, 0)) })
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

// contained turns a panic into the end of the session.
func contained(f func() Ending) (e Ending) {
	defer func() {
		if p := recover(); p != nil {
			e = internal(fmt.Errorf("panic: %v", p))
		}
	}()
	return f()
}

func internal(err error) Ending {
	n := wire.Cease(wire.CeaseReset, "")
	return Ending{&bgp.Fault{Cause: bgp.InternalFault, Text: err.Error()}, &n}
}

func unexpected(state uint8, typ wire.Type) *Ending {
	n := wire.Notification{Code: wire.CodeFSM, Subcode: state}
	return &Ending{&bgp.Fault{Cause: bgp.Malformed, Text: fmt.Sprintf("unexpected %v", typ)}, &n}
}

// notified is the end that a router's NOTIFICATION brings.
func notified(body []byte) *Ending {
	n, err := wire.ParseNotification(body)
	if err != nil {
		return rejected(err, bgp.Malformed)
	}
	return &Ending{Fault: &bgp.Fault{Cause: bgp.Notified, Text: "the router says: " + n.String()}}
}

// rejected is the end for a message that we do not accept.
func rejected(err error, cause bgp.Cause) *Ending {
	var bad *wire.Error
	if !errors.As(err, &bad) {
		e := internal(err)
		return &e
	}
	n := bad.Notification()
	return &Ending{&bgp.Fault{Cause: cause, Text: bad.Text}, &n}
}

// lost is the end that an error of the connection brings; cause is for one that
// was closed.
func lost(err error, cause bgp.Cause) *Ending {
	var bad *wire.Error
	switch {
	case errors.As(err, &bad):
		return rejected(err, bgp.Malformed)
	case errors.Is(err, os.ErrDeadlineExceeded):
		n := wire.Notification{Code: wire.CodeHoldTimer}
		return &Ending{&bgp.Fault{Cause: bgp.HoldTimerExpired, Text: "hold timer expired before the session was established"}, &n}
	case cause == bgp.ClosedBeforeOpen:
		return &Ending{Fault: &bgp.Fault{Cause: cause, Text: "the router closed the connection before OPEN; does it know this node as a neighbor?"}}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Ending{Fault: &bgp.Fault{Cause: cause, Text: "the router closed the connection"}}
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return &Ending{Fault: &bgp.Fault{Cause: cause, Text: "the router reset the connection"}}
	default:
		return &Ending{Fault: &bgp.Fault{Cause: cause, Text: fmt.Sprintf("connection lost: %v", rootOf(err))}}
	}
}
