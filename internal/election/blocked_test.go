package election

import (
	"testing"
	"time"
)

// Which protocols do not get through to a peer follows from what came of it lately.
func TestWhatDoesNotGetThroughFollowsFromWhatCame(t *testing.T) {
	const now = 100 * time.Second
	ago := func(d time.Duration) time.Duration { return now - d }
	alive, cut := Suspicion{State: Alive}, Suspicion{State: Cut, Lost: ago(blockedAfter)}
	for _, c := range []struct {
		name string
		peer peer
		want Protocols
	}{
		{"nothing is the matter", peer{life: alive}, 0},
		{"cut for a moment", peer{life: Suspicion{State: Cut, Lost: ago(blockedAfter - 1)}, port: PortSilent}, 0},
		{"cut, and its port is not reached", peer{life: cut, port: PortSilent}, UDP | TCP},
		{"cut, and its port refuses", peer{life: cut, port: PortRefused}, UDP | TCP},
		{"cut, and its port is open", peer{life: cut, port: PortOpen}, UDP},
		{"cut, and its packets come", peer{life: cut, port: PortSilent, aloof: 1, spoke: ago(blockedAfter - 1)}, TCP},
		{"cut, and its packets came", peer{life: cut, port: PortSilent, aloof: 1, spoke: ago(blockedAfter)}, UDP | TCP},
		{"cut, and its packets came before it was lost", peer{life: cut, port: PortSilent, spoke: ago(1)}, UDP | TCP},
		{"stalled, as it was", peer{life: Suspicion{State: Stalled}, obstacle: TCP}, TCP},
		{"pings answered by connections alone", peer{life: alive, unpinged: unpingedLeast, unpingedAt: ago(blockedAfter)}, UDP},
		{"not often enough", peer{life: alive, unpinged: unpingedLeast - 1, unpingedAt: ago(blockedAfter)}, 0},
		{"not for long enough", peer{life: alive, unpinged: unpingedLeast, unpingedAt: ago(blockedAfter - 1)}, 0},
		{"no ping answered by its packets", peer{life: alive, unanswered: unansweredLeast, unansweredAt: ago(blockedAfter)}, UDP},
		{"not often enough", peer{life: alive, unanswered: unansweredLeast - 1, unansweredAt: ago(blockedAfter)}, 0},
		{"not for long enough", peer{life: alive, unanswered: unansweredLeast, unansweredAt: ago(blockedAfter - 1)}, 0},
		{"and it is lost by now", peer{life: Suspicion{State: Suspected}, unanswered: unansweredLeast, unansweredAt: ago(blockedAfter)}, 0},
		{"and it is gone by now", peer{life: Suspicion{State: Gone}, unpinged: unpingedLeast, unpingedAt: ago(blockedAfter)}, 0},
		{"no member, and its packets come", peer{aloof: ago(blockedAfter), spoke: ago(1)}, TCP},
		{"since just now", peer{aloof: ago(blockedAfter - 1), spoke: ago(1)}, 0},
		{"no more", peer{aloof: ago(2 * blockedAfter), spoke: ago(blockedAfter)}, 0},
		{"a member whose packets come", peer{life: alive, aloof: ago(blockedAfter), spoke: ago(1)}, 0},
	} {
		if got := c.peer.blocked(now); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// The time since when a peer speaks without being a member begins with the first word, at
// whatever time that is, and anew after a silence.
func TestAPeerIsAloofFromItsFirstWordOn(t *testing.T) {
	v := NewView("a", addrA, 1, DefaultPace(3, time.Second, 0))
	p := v.peer(0, "b")
	said := func(now, want time.Duration) {
		t.Helper()
		p.spokeAt(now)
		if p.aloof != want || p.spoke != now {
			t.Errorf("heard at %v, aloof since %v, want %v", now, p.aloof, want)
		}
	}
	said(0, 1) // 0 stands for never
	said(time.Second, 1)
	v.tellBlocked(time.Second + blockedAfter - 1)
	said(5*time.Second, 1)
	v.tellBlocked(5*time.Second + blockedAfter)
	if p.aloof != 0 {
		t.Errorf("silent for long, and aloof since %v", p.aloof)
	}
	said(9*time.Second, 9*time.Second)
	p.life.State = Alive
	v.tellBlocked(9 * time.Second)
	said(10*time.Second, 0) // a member
}

// What its port said last counts, and since when only connections answer.
func TestWhatCameOfAPeerIsKept(t *testing.T) {
	f := newFixture(t)
	f.together()
	p := f.v.peers["b"]
	for _, port := range []Port{PortRefused, PortUnknown, PortSilent, PortOpen} {
		was := p.port
		f.v.Answered(f.now, "b", Answer{Round: -1, Segment: Unknown, Port: port})
		want := port
		if port == PortUnknown {
			want = was
		}
		if p.port != want {
			t.Errorf("its port is %v after %v, want %v", p.port, port, want)
		}
	}
	f.v.Pinged(time.Minute, "b", TCP)
	f.v.Pinged(2*time.Minute, "b", TCP)
	if p.unpinged != 2 || p.unpingedAt != time.Minute {
		t.Errorf("%d times since %v", p.unpinged, p.unpingedAt)
	}
	f.v.Pinged(3*time.Minute, "b", UDP|TCP)
	if p.unpinged != 0 {
		t.Errorf("%d times", p.unpinged)
	}
}

// A member whose pings are answered by others is knocked at, at most once a second, and a
// packet of its own counts as an answer; what comes by an exchange does not.
func TestAMemberThatAnswersNoPingIsKnockedAt(t *testing.T) {
	f := newFixture(t)
	f.together()
	f.v.Settle(f.now)
	p := f.v.peers["b"]
	knocks, last := 0, time.Duration(0)
	for range 30 {
		f.now += 200 * time.Millisecond
		f.v.Unanswered(f.now, "b")
		f.v.Unanswered(f.now, "stranger")
		for _, to := range f.v.Settle(f.now).Tells {
			if to.To == p.addr && to.Kind == Knock {
				if knocks++; f.now < last+knockPause {
					t.Errorf("knocks at %v and at %v", last, f.now)
				}
				last = f.now
			}
		}
	}
	if knocks != 6 {
		t.Errorf("%d knocks in six seconds", knocks)
	}
	f.v.ReceiveState(f.now, []*Record{p.status})
	if p.obstacle != UDP || p.unanswered != 30 {
		t.Errorf("after an exchange %v is blocked, %d times", p.obstacle, p.unanswered)
	}
	f.v.Receive(f.now, p.status, Direct)
	f.v.Settle(f.now)
	if p.obstacle != 0 || p.unanswered != 0 {
		t.Errorf("after a packet of its own %v is blocked, %d times", p.obstacle, p.unanswered)
	}
	f.v.Unanswered(f.now, "b")
	f.v.Pinged(f.now, "b", UDP)
	if p.unanswered != 0 {
		t.Errorf("after an answer %d times", p.unanswered)
	}
	f.v.Unanswered(f.now, "b")
	f.v.Lost(f.now, "b")
	if f.v.Unanswered(f.now, "b"); p.unanswered != 0 {
		t.Errorf("lost, and %d times", p.unanswered)
	}
}

func TestASentenceNamesSomeOfThoseThatAreBlocked(t *testing.T) {
	node := func(name string, names ...string) Blocked { return Blocked{name, ProtocolsOf(names)} }
	const rest = ": see that its port is open between the nodes, by UDP and by TCP"
	for _, c := range []struct {
		blocked []Blocked
		want    string
	}{
		{nil, ""},
		{[]Blocked{node("b", "UDP")}, "gossip is blocked between this node and b (UDP)" + rest},
		{[]Blocked{node("b", "TCP", "UDP"), node("c", "TCP"), node("d", "UDP", "SCTP")}, "gossip is blocked between this node and b (UDP and TCP), c (TCP), d (UDP)" + rest},
		{[]Blocked{node("b", "UDP"), node("c", "TCP"), node("d", "TCP"), node("e", "TCP")}, "gossip is blocked between this node and b (UDP), c (TCP), d (TCP), 1 more" + rest},
	} {
		if got := Describe(c.blocked); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
