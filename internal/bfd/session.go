package bfd

import "time"

const (
	// slow is the least transmit interval of a session that is not up (RFC 5880
	// section 6.8.3).
	slow = time.Second
	// readingTime is how long a session that was not asked in time gives its user to
	// hand over what has arrived meanwhile (docs/design/bfd.md).
	readingTime = 10 * time.Millisecond
)

// A Config is what a session wants.
type Config struct {
	// Transmit is the interval at which to send, Receive the least at which to
	// receive.
	Transmit, Receive time.Duration
	Multiplier        uint8
	// Passive sends nothing before it has heard something.
	Passive bool
	// Begin is the least transmit interval while the session is not up; 0 is the
	// second that the RFC demands. Less is for a port of one's own, where both ends
	// agree to it.
	Begin time.Duration
	// Authentication is required of each packet, and given.
	Authentication Authentication
}

func (c Config) equal(o Config) bool {
	return c.Transmit == o.Transmit && c.Receive == o.Receive && c.Multiplier == o.Multiplier && c.Passive == o.Passive && c.Begin == o.Begin && c.Authentication.equal(o.Authentication)
}

// begin returns the transmit interval of a session that is not up.
func (c Config) begin() time.Duration {
	if c.Begin != 0 {
		return max(c.Begin, c.Transmit)
	}
	return max(slow, c.Transmit)
}

// A Session is one end of a BFD session. Time is the time since any moment that
// its user has chosen, and never goes back. It is not for several goroutines.
type Session struct {
	config Config
	jitter func() float64

	state State
	diag  Diag
	local uint32

	// remote is what the other end says of itself.
	remote struct {
		state      State
		local      uint32
		desiredTx  time.Duration
		requiredRx time.Duration
		multiplier uint8
		demand     bool
	}
	// desiredTx and requiredRx are what is in effect, which lags behind the
	// config while a poll sequence announces a change (RFC 5880 section 6.8.3).
	desiredTx, requiredRx time.Duration
	// polling is set while a poll sequence has not been answered, which announces polledTx
	// and polledRx. What the config becomes meanwhile is for the next one: an answer does
	// not say which of two it is for.
	polling            bool
	polledTx, polledRx time.Duration

	// knock is the latest packet that named no session while this one was up and
	// after which none has named it; nil when there is none.
	knock *Packet

	// sequence is the number of the next packet that is signed; heard is that of
	// the last one that came, until a time (RFC 5880 section 6.8.1).
	sequence, heard uint32
	heardUntil      time.Duration
	// refusal is why the latest packet was refused; nil if it was not.
	refusal error

	// sendAt is when the next periodic packet is due, detectAt when the other
	// end is given up, if it is waited for.
	sendAt, detectAt time.Duration
	detecting        bool
	// excused is set when detectAt has been put off because Tick came late for it.
	excused bool
	closed  bool
}

// NewSession returns a session in state Down. Local is its discriminator, not 0
// and unique on this machine; jitter returns numbers in [0,1).
func NewSession(c Config, local uint32, now time.Duration, jitter func() float64) *Session {
	s := &Session{config: c, jitter: jitter, state: Down, local: local, desiredTx: c.begin(), requiredRx: c.Receive, sendAt: now}
	// Until it says otherwise (RFC 5880 section 6.8.1: one microsecond).
	s.remote.requiredRx = time.Microsecond
	s.remote.state = Down
	s.sequence = uint32(jitter() * (1 << 31))
	return s
}

// State returns the session's state.
func (s *Session) State() State { return s.state }

// Diag returns why the session went down last.
func (s *Session) Diag() Diag { return s.diag }

// RemoteState returns the state that the other end was in when last heard.
func (s *Session) RemoteState() State { return s.remote.state }

// A Doubt is what may keep a session from coming up.
type Doubt uint8

// Doubts.
const (
	// Unheard: the other end has not been heard, or not for its detection time.
	Unheard Doubt = iota
	// Unanswered: the other end is heard, and hears nothing of us.
	Unanswered
	// OutOfService: the other end says that it is not to come up.
	OutOfService
)

// Doubt returns what may keep a session that is not up from it.
func (s *Session) Doubt() Doubt {
	switch {
	case s.remote.local == 0:
		return Unheard
	case s.remote.state == AdminDown:
		return OutOfService
	default:
		return Unanswered
	}
}

// Refusal returns why the latest packet was refused that came the way of this
// session, if it was, for the sake of its authentication.
func (s *Session) Refusal() error { return s.refusal }

// Local returns the session's discriminator.
func (s *Session) Local() uint32 { return s.local }

// DetectionTime returns how long the other end may be silent.
func (s *Session) DetectionTime() time.Duration {
	return time.Duration(s.remote.multiplier) * max(s.requiredRx, s.remote.desiredTx)
}

// Reconfigure changes what the session wants. A session that is up stays up: the
// change is announced by a poll sequence.
func (s *Session) Reconfigure(c Config, now time.Duration) {
	if c.equal(s.config) {
		return
	}
	s.config = c
	s.adapt(now)
}

// adapt brings the intervals in effect nearer to the config's. What makes either
// end wait longer, or less, than the other expects must be announced first.
func (s *Session) adapt(now time.Duration) {
	wantTx := s.config.Transmit
	if s.state != Up {
		wantTx = s.config.begin()
	}
	if wantTx == s.desiredTx && s.config.Receive == s.requiredRx {
		return
	}
	switch {
	case s.state != Up:
		s.desiredTx, s.requiredRx = wantTx, s.config.Receive
	case s.polling:
		return
	default:
		s.polling, s.polledTx, s.polledRx = true, wantTx, s.config.Receive
		// Sending faster, and expecting less, may begin at once.
		s.desiredTx, s.requiredRx = min(wantTx, s.desiredTx), max(s.config.Receive, s.requiredRx)
	}
	s.sendAt = now
}

// Receive takes a packet that came the way of this session, and returns the answer
// to send at once, if one is due.
//
// What the packet is worth depends on whether it names our discriminator, which
// only the other end and those on the path between can know. One that names
// another is not for us. One that names none is from a router that has just
// started, or from a station that forges its address: it can begin a session, and
// does nothing to one that is up. If the router really has restarted, the packets
// that name us have ended, the detection time passes, and the session then goes on
// from the last that came since.
//
// The sender's own discriminator may change at any time (RFC 5880 section 6.3).
func (s *Session) Receive(b []byte, now time.Duration) (answer []byte, ok bool) {
	p, err := Parse(b)
	if err != nil || s.closed || p.Yours != 0 && p.Yours != s.local {
		return nil, false
	}
	if s.refusal = s.admit(b, p, now); s.refusal != nil {
		return nil, false
	}
	switch {
	case p.Yours != 0:
		s.knock = nil
	case p.State == AdminDown && s.state == Down: // says why the session does not begin
	case p.State != Down:
		return nil, false
	case s.state == Up:
		s.knock = &p
		return nil, false
	}
	poll := s.follow(p, now)
	if p.Yours != 0 && p.Auth.Type != NoAuth {
		s.heard, s.heardUntil = p.Auth.Sequence, now+2*s.DetectionTime()
	}
	if !poll {
		return nil, false
	}
	final := s.packet()
	final.Poll, final.Final = false, true
	return s.seal(final), true
}

// admit reports why a packet is refused, if it is. The number of an authenticated
// packet must be one of the next few, unless the other end has been silent for
// twice the detection time (RFC 5880 section 6.7.4).
//
// It is not asked of a packet that names no session. Who has restarted does not
// know its number any more; such a packet can do no more than begin a session; and
// if an old one, sent again, said what is expected next, it would keep out the
// right ones. Those that follow name our discriminator.
func (s *Session) admit(b []byte, p Packet, now time.Duration) error {
	a := s.config.Authentication
	if err := a.verify(b, p); err != nil || a.Type == NoAuth || p.Yours == 0 || now >= s.heardUntil {
		return err
	}
	ahead := p.Auth.Sequence - s.heard // modulo 2^32
	if a.Type == MeticulousKeyedSHA1 && ahead == 0 || ahead > 3*uint32(p.Multiplier) {
		return ErrSequence
	}
	return nil
}

// seal makes octets of a packet, signed with the first key. Each has another
// number, which keyed SHA-1 permits and its meticulous form demands.
func (s *Session) seal(p Packet) []byte {
	a := s.config.Authentication
	if a.Type == NoAuth {
		return Append(nil, p)
	}
	p.Auth = AuthSection{Type: a.Type, KeyID: a.Keys[0].ID, Sequence: s.sequence}
	s.sequence++
	b := Append(nil, p)
	sign(b, a.Keys[0])
	return b
}

// follow takes what a packet says for what the other end says. It reports whether
// that asks for an answer at once.
func (s *Session) follow(p Packet, now time.Duration) (poll bool) {
	before := s.interval()
	r := &s.remote
	r.local, r.state, r.demand = p.Mine, p.State, p.Demand
	r.desiredTx, r.requiredRx, r.multiplier = p.DesiredTx, p.RequiredRx, p.Multiplier
	if p.Final && s.polling {
		s.polling = false
		if s.state == Up {
			s.desiredTx, s.requiredRx = s.polledTx, s.polledRx
			s.adapt(now)
		}
	}
	switch {
	case p.State == AdminDown:
		if s.state != Down {
			s.fall(NeighborDown, now)
		}
	case s.state == Down && p.State == Down:
		s.enter(Init, now)
	case s.state == Down && p.State == Init, s.state == Init && p.State != Down:
		s.enter(Up, now)
	case s.state == Up && p.State == Down:
		s.fall(NeighborDown, now)
	}
	s.detecting, s.detectAt, s.excused = true, now+s.DetectionTime(), false
	if s.interval() < before {
		s.sendAt = min(s.sendAt, now+s.interval())
	}
	return p.Poll && p.Yours != 0
}

func (s *Session) enter(state State, now time.Duration) {
	s.state = state
	if state == Up {
		s.diag = NoDiag
	}
	s.polling = false
	s.adapt(now)
	s.sendAt = now
}

func (s *Session) fall(why Diag, now time.Duration) {
	s.diag = why
	s.enter(Down, now)
}

// Silent reports whether the next Tick takes the other end for lost, or itself for
// late. What has arrived is to be given to Receive before.
func (s *Session) Silent(now time.Duration) bool { return s.detecting && now >= s.detectAt }

// Tick lets time pass, and returns the packet to send, if one is due. A Tick that comes
// late for the end of the detection time is taken for the sign of a process that was
// stopped, and that has not read what came meanwhile: it is given a moment, once.
func (s *Session) Tick(now time.Duration) (b []byte, ok bool) {
	switch {
	case s.closed:
		return nil, false
	case s.Silent(now) && now >= s.detectAt+readingTime && !s.excused:
		s.detectAt, s.excused = now+readingTime, true
	case s.Silent(now):
		s.detecting = false
		// What it said of itself counts no longer (RFC 5880 section 6.8.1).
		s.remote.local, s.remote.requiredRx, s.remote.demand = 0, time.Microsecond, false
		if s.state == Init || s.state == Up {
			s.fall(DetectionTimeExpired, now)
		}
		if knock := s.knock; knock != nil {
			s.knock = nil
			s.follow(*knock, now)
		}
	}
	if !s.sends() || now < s.sendAt {
		return nil, false
	}
	// 75 to 100 % of the interval, 75 to 90 % where one loss is the end (RFC 5880
	// section 6.8.7).
	spread := 0.25
	if s.config.Multiplier == 1 {
		spread = 0.15
	}
	s.sendAt = now + time.Duration((0.75+spread*s.jitter())*float64(s.interval()))
	return s.seal(s.packet()), true
}

// sends reports whether periodic packets are to be sent.
func (s *Session) sends() bool {
	switch {
	case s.config.Passive && s.remote.local == 0, s.remote.requiredRx == 0:
		return false
	case s.remote.demand && s.state == Up && s.remote.state == Up && !s.polling:
		return false
	default:
		return true
	}
}

// interval returns the transmit interval before jitter.
func (s *Session) interval() time.Duration { return max(s.desiredTx, s.remote.requiredRx) }

// Next returns when Tick is to be called again, if nothing is received before.
func (s *Session) Next() (time.Duration, bool) {
	at, any := time.Duration(0), false
	if s.detecting {
		at, any = s.detectAt, true
	}
	if s.sends() && (!any || s.sendAt < at) {
		at, any = s.sendAt, true
	}
	return at, any && !s.closed
}

// Close ends the session and returns the packet that tells the other end that
// this is no failure.
func (s *Session) Close() []byte {
	s.state, s.diag, s.polling, s.closed = AdminDown, AdministrativelyDown, false, true
	return s.seal(s.packet())
}

// packet returns what there is to say now.
func (s *Session) packet() Packet {
	p := Packet{
		Diag: s.diag, State: s.state, Poll: s.polling, Multiplier: s.config.Multiplier, Mine: s.local, Yours: s.remote.local,
		DesiredTx: s.desiredTx, RequiredRx: s.requiredRx,
	}
	if s.polling {
		// A poll announces what is wanted, whatever is still in effect.
		p.DesiredTx, p.RequiredRx = s.polledTx, s.polledRx
	}
	return p
}
