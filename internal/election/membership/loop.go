package membership

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/election"
)

// A loop runs one View: it hands on what memberlist hears and performs what the
// View asks for. Its methods run on one goroutine; what takes time (asking a
// suspect, exchanging state) runs on others, which post the result.
type loop struct {
	m    *Membership
	ctx  context.Context
	bind netip.Addr // Where to gossip.
	// Nil while that address is not the node's; again is when to try it once more.
	ml    *memberlist.Memberlist
	tr    memberlist.NodeAwareTransport
	again time.Duration
	view  *election.View
	start time.Time // Origin of the View's times.
	wg    sync.WaitGroup
	// Held by exchanges with those that are missing, and by those with nodes
	// just heard and streams to them. The first may take long.
	slow, quick chan struct{}
	// deaf is how long a gap between two turns of the loop makes others give
	// this node up.
	deaf time.Duration

	own       *election.Record
	heard     map[string]heard            // What acks brought last, by node.
	wire      map[*election.Record][]byte // Encoded, of the records handed over.
	exchanges map[netip.Addr]int          // Under way.
	streams   map[netip.Addr]bool         // Under way; true when another is to follow.
}

// docs/design/gossip.md has the reasons; portTimeout is part of a confirmation.
const (
	// streamTimeout bounds one exchange of state.
	streamTimeout = 2 * time.Second
	// atOnce bounds how many streams of a sort this node opens at a time.
	atOnce = 16
	// packetSize bounds a record in a packet, so that it passes beside other
	// news in one of 1,400 bytes.
	packetSize = 1100
	// farewellTime bounds the wait until another node has heard that this one left.
	farewellTime = 300 * time.Millisecond
	// portTimeout is how long a connection to a suspect's gossip port may take.
	// Only a lost packet or a lost node takes longer; the question is repeated.
	portTimeout = 150 * time.Millisecond
	// heartbeat is the longest pause between two turns of the loop, by which it
	// notices that the whole process was stopped.
	heartbeat = 250 * time.Millisecond
	// noteworthy is for how long a member was lost whose return is worth a line in the log.
	noteworthy = time.Second
	// perMember is the pause after a new list for each member on it, about as
	// long as making it takes.
	perMember = 10 * time.Microsecond
)

func (l *loop) now() time.Duration { return time.Since(l.start) }

func (l *loop) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	last, suspended := l.now(), l.m.suspended()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.m.inbox.kick:
		case <-timer.C:
		}
		now := l.now()
		if s := l.m.suspended(); s-suspended > heartbeat { // else it is how long two clocks take to read
			last, suspended = last-(s-suspended), s
		}
		if gap := now - last - heartbeat; gap > l.deaf {
			l.m.log.Warn("this process was stopped; others may have taken over its addresses", "for", gap)
			l.view.Stopped(now)
		}
		last = now
		for _, f := range l.m.inbox.take() {
			f(l)
		}
		if l.ml == nil && now >= l.again {
			l.rebegin()
		}
		e := l.view.Settle(l.now())
		next := l.perform(e)
		l.rest(time.Duration(len(e.Members)) * perMember)
		timer.Reset(min(max(next-l.now(), time.Millisecond), heartbeat))
	}
}

// suspended returns how long the machine was suspended since it was started, which
// Go's clock leaves out.
func suspended() time.Duration {
	var all, awake unix.Timespec // zero for a clock that is not there
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake)
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &all)
	return time.Duration(all.Nano() - awake.Nano())
}

// rest pauses after a list was made, so that one of hundreds is not made anew for
// each of hundreds of records that come at once.
func (l *loop) rest(d time.Duration) {
	if d == 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-l.ctx.Done():
	}
}

// perform does what the View asks for; it returns when the View wants to be
// called next.
func (l *loop) perform(e election.Effects) time.Duration {
	if e.Records != nil {
		l.hand(e.Records)
	}
	for _, t := range e.Tells {
		l.tell(t)
	}
	if e.Refute {
		l.renew()
	}
	for _, r := range e.News {
		if b := l.encoded(r); len(b) <= packetSize {
			l.m.news.QueueBroadcast(news{r.Node, b})
		} else if brief := encodeBrief(r, election.Relayed); len(brief) <= packetSize {
			l.m.news.QueueBroadcast(news{r.Node, brief})
		}
	}
	for _, a := range e.Urgent {
		l.exchange(a, l.quick, 2) // One may be waiting for a packet lost in the outage.
	}
	for _, a := range e.Exchanges {
		l.exchange(a, l.slow, 1)
	}
	for _, q := range e.Questions {
		l.ask(q)
	}
	for _, a := range e.Alarms {
		word := encodeWord(wordAlarm, l.m.cfg.Node, a.Suspect)
		for _, to := range a.To {
			l.send(to, word)
		}
	}
	for _, d := range e.Denials {
		l.send(d.To, encodeWord(wordDenial, l.m.cfg.Node, d.Suspect))
	}
	if e.Ring != nil && l.m.watcher != nil {
		l.m.watcher.Set(*e.Ring, l.seen)
	}
	l.m.metrics.cleared.Add(float64(e.Cleared))
	l.m.metrics.dropped.WithLabelValues(dropOverflow).Add(float64(e.Refused))
	for _, c := range e.Changes {
		if c.State == election.Gone {
			delete(l.heard, c.Node)
		}
		l.log(c)
	}
	if e.Blocked != nil {
		l.m.tellBlocked(e.Blocked)
	}
	if e.Members != nil {
		l.m.size.Store(int32(len(e.Members)))
		l.m.publishMembers(e.Members)
	}
	return e.Next
}

// hand replaces what peers are told in an exchange.
func (l *loop) hand(records []*election.Record) {
	l.own = records[0]
	wire := make(map[*election.Record][]byte, len(records))
	state := make([][]byte, len(records))
	for i, r := range records {
		wire[r] = l.encoded(r)
		state[i] = wire[r]
	}
	l.wire = wire
	l.m.state.Store(&state)
	ack := as(state[0], election.Direct)
	if len(ack) > packetSize {
		ack = encodeBrief(l.own, election.Direct)
	}
	if len(ack) > packetSize {
		ack = nil
	}
	l.m.ack.Store(&ack)
}

// encoded returns the record encoded as a relayed one.
func (l *loop) encoded(r *election.Record) []byte {
	if b := l.wire[r]; b != nil {
		return b
	}
	return encode(r, election.Relayed)
}

// send sends one packet, or none while gossip has no address. Errors are packets
// lost; what they were to bring comes with the next exchange.
func (l *loop) send(to netip.Addr, packet []byte) {
	if l.ml != nil {
		_ = l.ml.SendToAddress(memberlist.Address{Addr: hostPort(to, l.m.cfg.Port)}, packet)
	}
}

// renew tells all members anew that this one lives and what it understands. It
// does not wait until all is said.
func (l *loop) renew() {
	if l.ml != nil {
		_ = l.ml.UpdateNode(time.Nanosecond)
	}
}

// tell sends this node's record to an address: in one packet, and the whole of
// it by a stream when it does not fit or packets do not get there.
func (l *loop) tell(t election.Tell) {
	packet := as(l.encoded(l.own), t.Kind)
	large := len(packet) > packetSize
	if large {
		packet = encodeBrief(l.own, t.Kind)
	}
	if len(packet) <= packetSize {
		l.send(t.To, packet)
	}
	if t.Stream || large && t.Kind == election.Direct {
		l.stream(t.To, t.Kind)
	}
}

// stream sends the whole record by a stream, one at a time to each address.
func (l *loop) stream(to netip.Addr, k election.Kind) {
	if l.ml == nil {
		return
	}
	if _, busy := l.streams[to]; busy {
		l.streams[to] = true
		return
	}
	l.streams[to] = false
	ml, node := l.ml, &memberlist.Node{Addr: to.AsSlice(), Port: l.m.cfg.Port}
	b := as(l.encoded(l.own), k)
	l.spawn(l.quick, func() {
		_ = ml.SendReliable(node, b)
		l.m.inbox.post(func(l *loop) {
			again := l.streams[to]
			delete(l.streams, to)
			if again {
				l.stream(to, election.Direct)
			}
		})
	})
}

// exchange exchanges all state with the speaker at the address, unless as many
// attempts at that are under way.
func (l *loop) exchange(a netip.Addr, slots chan struct{}, attempts int) {
	if l.ml == nil || l.exchanges[a] >= attempts {
		return
	}
	l.exchanges[a]++
	ml := l.ml
	l.spawn(slots, func() {
		_, err := ml.Join([]string{hostPort(a, l.m.cfg.Port)})
		l.m.metrics.exchanges.WithLabelValues(result(err)).Inc()
		l.m.inbox.post(func(l *loop) {
			if l.exchanges[a]--; l.exchanges[a] == 0 {
				delete(l.exchanges, a)
			}
		})
	})
}

func result(err error) string {
	if err != nil {
		return "failed"
	}
	return "done"
}

// spawn runs f on a goroutine of its own, as many at a time as there are slots.
func (l *loop) spawn(slots chan struct{}, f func()) {
	l.wg.Go(func() {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			if l.ctx.Err() == nil {
				f()
			}
		case <-l.ctx.Done():
		}
	})
}

// ask asks the suspect's kernel on the segment and at its gossip port, both at
// once, and hands on what settles the question as soon as it is known.
func (l *loop) ask(q election.Question) {
	answer := func(v election.Reply, port election.Port) {
		a := election.Answer{Round: q.Round, Segment: v, Port: port}
		l.m.inbox.post(func(l *loop) { l.view.Answered(l.now(), q.Suspect.Node, a) })
	}
	segment := make(chan election.Reply, 1)
	l.wg.Go(func() {
		v := election.Unknown
		if l.m.confirm != nil {
			v = l.m.confirm.Confirm(l.ctx, q)
		}
		if l.ctx.Err() != nil {
			v = election.Unknown // Cut short: that is no silence.
		}
		if q.Missed && (v == election.Answers || v == election.Speaks) {
			l.m.inbox.post(func(l *loop) { l.view.Replied(q.Suspect.Node, q.Round) })
		}
		if v == election.Silent || v == election.Speaks {
			answer(v, election.PortUnknown)
		}
		segment <- v
	})
	tr := l.tr
	l.wg.Go(func() {
		port := l.connect(tr, q.Suspect.Address)
		if port == election.PortRefused {
			answer(election.Unknown, port)
			return
		}
		answer(<-segment, port)
	})
}

func (l *loop) connect(tr memberlist.NodeAwareTransport, a netip.Addr) election.Port {
	if tr == nil {
		return election.PortSilent
	}
	c, err := tr.DialTimeout(hostPort(a, l.m.cfg.Port), portTimeout)
	switch {
	case err == nil:
		_ = c.Close()
		return election.PortOpen
	case errors.Is(err, syscall.ECONNREFUSED):
		return election.PortRefused
	default:
		return election.PortSilent
	}
}

func (l *loop) log(c election.Change) {
	log := l.m.log.With("node", c.Node)
	switch c.State {
	case election.Alive:
		if c.Doubted {
			l.m.metrics.ended(endRecovered, c.For)
		}
		switch {
		case !c.Doubted:
			log.Info("member joined")
		case c.For < noteworthy:
			log.Debug("member recovered", "after", c.For) // several times a second where answers come late
		default:
			log.Info("member recovered", "after", c.For)
		}
	case election.Suspected:
		log.Debug("member suspected")
	case election.Stalled:
		log.Debug("member stalled: its speaker is silent, and nothing shows that its node is gone")
	case election.Cut:
		log.Debug("member cut off: gossip does not reach it, its speaker answers on the segment")
	case election.Gone:
		if c.Doubted {
			l.m.metrics.ended(c.Cause.String(), c.For)
		}
		log.Info("member gone", "reason", c.Cause.String(), "after", c.For)
	}
}

// seen takes what a session sees. It does not wait.
func (l *loop) seen(w election.Watch, s election.Sight) {
	l.m.inbox.post(func(l *loop) { l.view.Sighted(l.now(), w, s) })
}

// receive takes a record from a packet or a stream, or a word about a third member.
func (l *loop) receive(b []byte) {
	if len(b) > 0 && b[0] == wordVersion {
		switch w, err := decodeWord(b); {
		case err != nil:
			l.m.metrics.dropped.WithLabelValues(dropMalformed).Inc()
		case w.kind == wordAlarm:
			l.view.Alarmed(l.now(), w.from, w.about)
		default:
			l.view.Denied(l.now(), w.about)
		}
		return
	}
	if r, k := l.decode(b); r != nil {
		l.view.Receive(l.now(), r, k)
	}
}

// receiveState takes the records of another node's state, its own first.
func (l *loop) receiveState(b []byte) {
	items, err := unframe(b)
	if err != nil {
		l.m.metrics.dropped.WithLabelValues(dropMalformed).Inc()
		return
	}
	var rs []*election.Record
	for i, item := range items {
		r, _ := l.decode(item)
		if r == nil && i == 0 {
			return // Whose state this is is not known.
		}
		if r != nil {
			rs = append(rs, r)
		}
	}
	l.view.ReceiveState(l.now(), rs)
}

// A heard is a record that came with an ack.
type heard struct {
	b []byte
	r *election.Record
}

// receiveAck takes the record that came with an ack. Most of the time it is the
// same as last time; the View still wants to see it, for its node may claim
// what is ours because it has not heard of that.
func (l *loop) receiveAck(node string, b []byte) {
	l.view.Pinged(l.now(), node, election.UDP)
	if len(b) == 0 {
		return // It does not fit into a packet.
	}
	h := l.heard[node]
	if !bytes.Equal(h.b, b) {
		r, _ := l.decode(b)
		if r == nil {
			return
		}
		h = heard{b, r}
		l.heard[node] = h
	}
	l.view.Receive(l.now(), h.r, election.Direct)
}

func (l *loop) decode(b []byte) (*election.Record, election.Kind) {
	r, k, err := decode(b)
	if err != nil {
		l.m.metrics.dropped.WithLabelValues(dropMalformed).Inc()
		l.m.log.Debug("gossip record dropped", "err", err)
		return nil, k
	}
	return r, k
}

// farewell tells everybody that this node goes, and waits a moment until
// another node has heard.
func (l *loop) farewell() {
	l.view.SetLocal(election.Local{Leaving: true})
	l.perform(l.view.Settle(l.now()))
	if l.ml == nil {
		return
	}
	if err := l.ml.Leave(farewellTime); err != nil {
		l.m.log.Debug("no member has confirmed that this node leaves", "err", err)
	}
}

// news is a record on its way to everybody; a newer one of the same node takes
// its place.
type news struct {
	node string
	b    []byte
}

// Invalidates reports whether o is of the same node.
func (n news) Invalidates(o memberlist.Broadcast) bool {
	other, ok := o.(news)
	return ok && other.node == n.node
}

// Name is the node's.
func (n news) Name() string { return n.node }

// Message returns the record.
func (n news) Message() []byte { return n.b }

// Finished is of no interest.
func (n news) Finished() {}
