package fsm

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// docs/design/guard.md has the reasons.
const (
	// openTimeout bounds the wait for a router's OPEN, and for the KEEPALIVE that
	// confirms ours on a session without a hold time. RFC 4271 suggests four minutes;
	// a router that needs more than one is better tried again.
	openTimeout = time.Minute
	// patience is how long a router may be in answering before it is told what that may
	// mean. It is given more time.
	patience = 5 * time.Second
	// lastWords is how long a router's NOTIFICATION may be in coming after a write
	// has failed.
	lastWords = time.Second
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

// A Config is what a session is to be.
type Config struct {
	// Open is our OPEN.
	Open wire.Open
	// Silence says what it may mean that a router does not answer in this state.
	Silence func(bgp.State, bgp.Trace) *bgp.Fault
	// Judge gives the terms on which a router's OPEN is accepted. An error that is a
	// [*wire.Error] is told to the router.
	Judge func(theirs wire.Open) (bgp.Negotiated, error)
	// MaximumPrefixes is how many received prefixes are remembered, to be counted.
	MaximumPrefixes int
	// Jitter returns numbers in [0,1).
	Jitter func() float64
}

// Effects are what an event asks for.
type Effects struct {
	// Write is whole messages for the router. There are none before [Session.Wrote]
	// says that the last ones have been taken.
	Write []byte
	// Refresh is a family whose table the router wants again.
	Refresh *wire.Family
	// Doubt is why the session may not come up; it is tried on.
	Doubt *bgp.Fault
	// End is why the session is over. No event counts any more.
	End *Ending
}

// Counts are how many messages went through a session.
type Counts struct {
	MessagesIn, UpdatesIn, MalformedIn uint64
	MessagesOut, UpdatesOut            uint64
}

// A Session is our end of a connection to a router, from OPEN to its end. Time is the
// time since any moment that its user has chosen, and never goes back. It is not for
// several goroutines.
type Session struct {
	config Config
	state  bgp.State
	ended  bool

	negotiated bgp.Negotiated
	terms      wire.Terms

	// hold, keepalive and sendHold are RFC 4271's and RFC 9687's timers. Before the
	// session is established, hold bounds the wait for the next message.
	hold, keepalive, sendHold timer
	// doubt is when the router has been waited for long enough to say so.
	doubt timer
	// upAt is when the session was established, heardAt when the router was heard last.
	upAt, heardAt time.Duration
	// writing is set while the router is being written to. What is due meanwhile is
	// one KEEPALIVE at most.
	writing, keepaliveDue bool
	// failed is how a write ended, when a NOTIFICATION may still explain it, which
	// words bounds.
	failed *Ending
	words  timer

	counts Counts
	// sent are the prefixes that the router has been told, unsaid those that it should
	// have been told, or told anew, and could not be. received are those that it announces, up to the
	// maximum; tooMany is set when there are more.
	sent, unsaid, received map[netip.Prefix]struct{}
	tooMany                bool
}

// A timer is a moment, when it is set.
type timer struct {
	at  time.Duration
	set bool
}

func (t *timer) start(at time.Duration)        { *t = timer{at, true} }
func (t *timer) stop()                         { *t = timer{} }
func (t timer) expired(now time.Duration) bool { return t.set && now >= t.at }

// New returns the session of a connection that has just been made, and its OPEN.
func New(c Config, now time.Duration) (*Session, Effects) {
	s := &Session{
		config: c, state: bgp.OpenSent,
		sent: map[netip.Prefix]struct{}{}, unsaid: map[netip.Prefix]struct{}{}, received: map[netip.Prefix]struct{}{},
	}
	s.hold.start(now + openTimeout)
	s.doubt.start(now + patience)
	return s, Effects{Write: s.write(wire.AppendOpen(nil, c.Open), now)}
}

// State returns OpenSent, OpenConfirm or Established.
func (s *Session) State() bgp.State { return s.state }

// Negotiated returns what was agreed on, from OpenConfirm on.
func (s *Session) Negotiated() bgp.Negotiated { return s.negotiated }

// Counts returns how many messages there were.
func (s *Session) Counts() Counts { return s.counts }

// Sent returns how many prefixes the router has been told and not been told to
// forget.
func (s *Session) Sent() int { return len(s.sent) }

// Unsaid returns how many routes of a family the router has not been told as they are,
// because the session has no words for them.
func (s *Session) Unsaid(f lb.Family) (n int) {
	for p := range s.unsaid {
		if lb.FamilyOf(p.Addr()) == f {
			n++
		}
	}
	return n
}

// Received returns how many prefixes the router announces, and whether there are
// more than are counted.
func (s *Session) Received() (int, bool) { return len(s.received), s.tooMany }

// Ready reports whether Say may be called.
func (s *Session) Ready() bool { return s.state == bgp.Established && !s.writing && !s.ended }

// Next returns when Tick is to be called, if nothing happens before.
func (s *Session) Next() (at time.Duration, any bool) {
	for _, t := range []timer{s.hold, s.keepalive, s.sendHold, s.words, s.doubt} {
		if t.set && (!any || t.at < at) {
			at, any = t.at, true
		}
	}
	return at, any && !s.ended
}

// write gives messages out.
func (s *Session) write(b []byte, now time.Duration) []byte {
	s.writing = true
	s.counts.MessagesOut += wire.Count(b)
	if s.state != bgp.Established {
		return b
	}
	// A router that reads nothing does not see our keepalives either, but it is alive
	// as long as it sends its own: it is given much more time than a silent one
	// (RFC 9687).
	s.sendHold.start(now + s.negotiated.SendHoldTime)
	if every := s.negotiated.KeepaliveTime; every > 0 {
		// From three quarters of the interval to the whole of it, never longer (RFC 4271
		// section 10). UPDATEs count as well (section 8.2.2).
		s.keepalive.start(now + time.Duration((0.75+0.25*s.config.Jitter())*float64(every)))
	}
	return b
}

// Wrote says that what was given out has been taken.
func (s *Session) Wrote(now time.Duration) Effects {
	if s.ended {
		return Effects{}
	}
	s.writing = false
	s.sendHold.stop()
	if !s.keepaliveDue {
		return Effects{}
	}
	return s.alive(now)
}

// alive says that we are.
func (s *Session) alive(now time.Duration) Effects {
	if s.keepaliveDue = s.writing; s.writing {
		return Effects{}
	}
	return Effects{Write: s.write(wire.AppendKeepalive(nil), now)}
}

// Say says what gobgp said, as far as was agreed on. What the router was told of a
// route that cannot be said any more is withdrawn. Of an UPDATE that is not well formed
// what it withdraws is withdrawn. [Session.Unsaid] counts what was not said. It must be
// called when Ready.
func (s *Session) Say(frames [][]byte, now time.Duration) Effects {
	var b []byte
	for _, frame := range frames {
		b = s.spell(b, frame)
	}
	if len(b) == 0 {
		return Effects{}
	}
	s.counts.UpdatesOut += wire.Count(b)
	return Effects{Write: s.write(b, now)}
}

// spell appends what may be said of an UPDATE.
func (s *Session) spell(b, frame []byte) []byte {
	body := frame[wire.HeaderLen:]
	if end, _ := wire.ParseUpdate(body, func(wire.Change) {}); end != nil {
		if s.negotiated.EndOfRIB && s.terms.Carries(*end) {
			b = append(b, frame...)
		}
		return b
	}
	var stale []netip.Prefix
	note := func(p netip.Prefix, told wire.Told) {
		_, has := s.sent[p]
		delete(s.sent, p)
		delete(s.unsaid, p)
		switch told {
		case wire.Announced:
			s.sent[p] = struct{}{}
		case wire.Unsayable:
			s.unsaid[p] = struct{}{}
			if has {
				stale = append(stale, p)
			}
		}
	}
	b, err := s.terms.AppendUpdate(b, body, note)
	if err != nil {
		// A withdrawal must not be lost. A route that the router has stays there as it
		// was: it is still wanted.
		_, _ = wire.ParseUpdate(body, func(c wire.Change) {
			switch _, has := s.sent[c.Prefix]; {
			case !s.terms.Carries(bgp.WireFamily(lb.FamilyOf(c.Prefix.Addr()))):
			case !c.Withdrawn:
				s.unsaid[c.Prefix] = struct{}{}
			case has:
				stale = append(stale, c.Prefix)
				fallthrough
			default:
				delete(s.sent, c.Prefix)
				delete(s.unsaid, c.Prefix)
			}
		})
	}
	return s.terms.AppendWithdrawals(b, stale)
}

// Receive takes one message of the router's.
func (s *Session) Receive(typ wire.Type, body []byte, now time.Duration) Effects {
	if s.ended {
		return Effects{}
	}
	s.counts.MessagesIn++
	if typ == wire.TypeNotification {
		n, err := wire.ParseNotification(body)
		if err != nil {
			return s.rejected(err, bgp.Malformed)
		}
		return s.end(Ending{Fault: &bgp.Fault{Cause: bgp.Notified, Text: "the router says: " + n.String()}})
	}
	switch s.state {
	case bgp.OpenSent:
		if typ == wire.TypeOpen {
			return s.opened(body, now)
		}
		return s.unexpected(1, typ)
	case bgp.OpenConfirm:
		if typ == wire.TypeKeepalive {
			return s.established(now)
		}
		return s.unexpected(2, typ)
	default:
		return s.follow(typ, body, now)
	}
}

// opened judges the router's OPEN, and confirms it.
func (s *Session) opened(body []byte, now time.Duration) Effects {
	theirs, err := wire.ParseOpen(body)
	if err == nil {
		s.negotiated, err = s.config.Judge(theirs)
	}
	if err != nil {
		return s.rejected(err, bgp.OpenRejected)
	}
	s.state, s.terms = bgp.OpenConfirm, s.negotiated.Terms()
	wait := openTimeout
	if s.negotiated.HoldTime > 0 {
		wait = s.negotiated.HoldTime
	}
	s.hold.start(now + wait)
	if every := s.negotiated.KeepaliveTime; every > 0 {
		s.keepalive.start(now + every)
	}
	return s.alive(now)
}

func (s *Session) established(now time.Duration) Effects {
	s.state, s.upAt = bgp.Established, now
	s.hold.stop()
	s.doubt.stop()
	s.heard(now)
	if s.writing { // the KEEPALIVE that confirms
		s.sendHold.start(now + s.negotiated.SendHoldTime)
	}
	return Effects{}
}

// heard starts the hold timer anew.
func (s *Session) heard(now time.Duration) {
	s.heardAt = now
	if s.negotiated.HoldTime > 0 {
		s.hold.start(now + s.negotiated.HoldTime)
	}
}

// follow takes a message of an established session.
func (s *Session) follow(typ wire.Type, body []byte, now time.Duration) Effects {
	s.heard(now)
	switch typ {
	case wire.TypeKeepalive:
	case wire.TypeUpdate:
		s.counts.UpdatesIn++
		s.count(body)
	case wire.TypeRouteRefresh:
		f, ordinary, err := wire.ParseRouteRefresh(body)
		if err != nil {
			return s.rejected(err, bgp.Malformed)
		}
		if ordinary && s.terms.Carries(f) {
			return Effects{Refresh: &f}
		}
	default:
		return s.unexpected(3, typ)
	}
	return Effects{}
}

// count keeps the set of prefixes that a router announces, up to the maximum. An
// UPDATE that is not well formed is no reason to lose the session: it would have been
// dropped anyhow (RFC 7606 in spirit).
func (s *Session) count(body []byte) {
	_, err := wire.ParseUpdate(body, func(c wire.Change) {
		_, known := s.received[c.Prefix]
		switch {
		case c.Withdrawn:
			delete(s.received, c.Prefix)
		case known:
		case len(s.received) < s.config.MaximumPrefixes:
			s.received[c.Prefix] = struct{}{}
		default:
			s.tooMany = true
		}
	})
	if err != nil {
		s.counts.MalformedIn++
	}
}

// Silent reports whether the hold timer has expired.
func (s *Session) Silent(now time.Duration) bool { return s.hold.expired(now) }

// Tick lets time pass. Unread says that something of the router's has arrived that
// was not given to Receive yet, so that its silence is not judged: a process that was
// stopped for a while must not blame its routers for it. Trace is asked for when it is.
func (s *Session) Tick(now time.Duration, unread bool, trace func() bgp.Trace) Effects {
	switch {
	case s.ended:
	case s.words.expired(now):
		return s.end(*s.failed)
	case s.hold.expired(now) && !unread:
		return s.end(Ending{s.silence(trace()), &wire.Notification{Code: wire.CodeHoldTimer}})
	case s.doubt.expired(now):
		s.doubt.stop()
		if unread || s.failed != nil {
			return Effects{}
		}
		return Effects{Doubt: s.silence(trace())}
	case s.sendHold.expired(now):
		return s.end(Ending{
			&bgp.Fault{Cause: bgp.SendTimeout, Text: fmt.Sprintf("send hold timer expired: the router has read nothing for %v", s.negotiated.SendHoldTime)},
			&wire.Notification{Code: wire.CodeSendHold},
		})
	case s.keepalive.expired(now):
		s.keepalive.stop()
		return s.alive(now)
	}
	return Effects{}
}

// silence is the fault of a router that is not heard. One that has confirmed the session
// and acknowledges nothing since has lost the way, or has died: only the first has never
// said more.
func (s *Session) silence(t bgp.Trace) *bgp.Fault {
	if s.state == bgp.Established && s.heardAt-s.upAt > s.negotiated.HoldTime/6 {
		t.Unacknowledged = false
	}
	return s.config.Silence(s.state, t)
}

// A Loss is how a connection came to its end.
type Loss struct {
	// Err is a [*wire.Error] of what is no message, or what the kernel said.
	Err error
	// Text says it: "the router closed the connection".
	Text string
}

// Lost says that nothing more can be read.
func (s *Session) Lost(l Loss, now time.Duration) Effects {
	var bad *wire.Error
	switch {
	case s.ended:
		return Effects{}
	case errors.As(l.Err, &bad):
		return s.rejected(bad, bgp.Malformed)
	case s.failed != nil: // what the write met came first
		return s.end(*s.failed)
	default:
		return s.end(s.loss(l))
	}
}

func (s *Session) loss(l Loss) Ending {
	if s.state == bgp.OpenSent {
		return Ending{Fault: &bgp.Fault{Cause: bgp.ClosedBeforeOpen, Text: "the router closed the connection before OPEN; does it know this node as a neighbor?"}}
	}
	return Ending{Fault: &bgp.Fault{Cause: bgp.ConnectionLost, Text: l.Text}}
}

// WriteFailed says that nothing more can be written. What the router said before
// counts for more than that, and may yet be read: a router that closes a connection
// with something of ours unread resets it, and to write finds out first.
func (s *Session) WriteFailed(l Loss, now time.Duration) Effects {
	if !s.ended && s.failed == nil {
		e := s.loss(l)
		s.failed = &e
		s.keepalive.stop()
		s.sendHold.stop()
		s.words.start(now + lastWords)
	}
	return Effects{}
}

// Close ends the session for a reason of ours.
func (s *Session) Close(e Ending) Effects {
	if s.ended {
		return Effects{}
	}
	return s.end(e)
}

func (s *Session) end(e Ending) Effects {
	s.ended = true
	return Effects{End: &e}
}

func (s *Session) unexpected(state uint8, typ wire.Type) Effects {
	return s.end(Ending{
		&bgp.Fault{Cause: bgp.Malformed, Text: fmt.Sprintf("the router sends %v where it has no place", typ)},
		&wire.Notification{Code: wire.CodeFSM, Subcode: state, Data: []byte{byte(typ)}}, // RFC 6608 section 4
	})
}

// rejected is the end for a message that we do not accept.
func (s *Session) rejected(err error, cause bgp.Cause) Effects {
	var bad *wire.Error
	if !errors.As(err, &bad) {
		return s.end(Internal(err))
	}
	e := Ending{Fault: &bgp.Fault{Cause: cause, Text: bad.Text}}
	if !bad.Mute {
		e.Notification = new(bad.Notification())
	}
	return s.end(e)
}

// Internal is the ending for a trouble of our own.
func Internal(err error) Ending {
	n := wire.Cease(wire.CeaseReset, "")
	return Ending{&bgp.Fault{Cause: bgp.InternalFault, Text: err.Error()}, &n}
}
