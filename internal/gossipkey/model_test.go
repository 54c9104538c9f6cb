package gossipkey

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// A model is a cluster whose speakers follow the Secret, each as late as it likes, and
// whose controller takes steps by what they said, as late.
type model struct {
	t        *testing.T
	r        *rand.Rand
	now      time.Time
	speakers []*model1
	is       State // The API server's.
	version  int
	// The controller's: it is restarted with nothing in memory.
	rotation Rotation
	last     *State
	texts    map[ID]Key
	made     byte
	history  []string
	verdict  Verdict
}

type model1 struct {
	node          string
	running, away bool
	ring          Ring
	seen          int  // The version of the Secret that it has seen.
	reported      *Use // What stands in its SpeakerStatus; nil for none.
}

func newModel(t *testing.T, seed uint64, size int) *model {
	m := &model{t: t, r: rand.New(rand.NewPCG(seed, 4)), now: time.Unix(1000, 0), texts: map[ID]Key{}}
	for i := range size {
		m.speakers = append(m.speakers, &model1{node: fmt.Sprintf("n%d", i)})
	}
	return m
}

func (m *model) say(format string, args ...any) {
	m.history = append(m.history, m.now.Format("05.000 ")+fmt.Sprintf(format, args...))
}

func (m *model) newKey() Key {
	m.made++
	k, _ := Of([]byte(strings.Repeat(string(rune('a'+m.made%26)), MinText) + fmt.Sprint(m.made)))
	return k
}

// write replaces the Secret. The controller knows its own writes at once.
func (m *model) write(is State) {
	is.Exists = true
	m.version++
	is.Version = fmt.Sprint(m.version)
	m.is = is
	m.say("secret: key %v next %v previous %v lost %v", is.Key, is.Next, is.Previous, is.Lost)
}

// control is one turn of the controller.
func (m *model) control() {
	if !m.is.Exists && m.last != nil {
		m.write(*m.last)
	}
	if m.is.Exists {
		last := m.is
		m.last = &last
		for _, k := range []Key{m.is.Key, m.is.Next, m.is.Previous} {
			m.texts[k.ID()] = k
		}
	}
	is := m.is
	for id := range m.texts {
		is.Known = append(is.Known, id)
	}
	var known []Speaker
	for _, s := range m.speakers {
		switch {
		case s.running && s.reported == nil:
			known = append(known, Speaker{Node: s.node})
		case s.running:
			known = append(known, Speaker{Node: s.node, Use: *s.reported})
		default:
			known = append(known, Speaker{Node: s.node, Idle: true})
		}
	}
	v := m.rotation.Decide(m.now, is, known)
	m.verdict = v
	if v.Step != Stay {
		m.say("%v %v %v", v.Step, v.Lost, v.Regain)
		m.write(Apply(m.is, v, m.newKey(), m.texts[v.Regain]))
	}
}

// turn is one turn of a speaker.
func (m *model) turn(s *model1) {
	switch {
	case s.away:
	case !s.running:
		if ring, err := Begin(m.is.Secret); err == nil && m.is.Exists {
			s.running, s.ring, s.seen, s.reported = true, ring, m.version, nil // It says that it begins.
			m.say("%s begins with %v", s.node, ring)
		}
	case m.is.Exists && s.seen < m.version:
		ring := Follow(s.ring, m.is.Secret)
		s.seen = m.version
		if ring != s.ring {
			m.say("%s: %v -> %v", s.node, s.ring, ring)
		}
		s.ring = ring
	}
}

func (m *model) report(s *model1) {
	if s.away {
		return
	}
	if !s.running {
		s.reported = nil
		return
	}
	u := s.ring.Use(fmt.Sprint(s.seen))
	s.reported = &u
}

// hear fails the test unless all that run hear each other.
func (m *model) hear() {
	for _, a := range m.speakers {
		for _, b := range m.speakers {
			if a.running && b.running && !a.ring.Use("").Takes(b.ring.Send.ID()) {
				m.t.Fatalf("%s does not hear %s:\n%s", a.node, b.node, strings.Join(m.history, "\n"))
			}
		}
	}
}

// settled reports whether all use one key, which is the Secret's.
func (m *model) settled() bool {
	for _, s := range m.speakers {
		if !s.running || s.ring != (Ring{Send: m.is.Key}) {
			return false
		}
	}
	return m.is.Exists && !m.is.Key.None() && m.is.Also().None() && len(m.is.Lost) == 0
}

// Whatever happens meanwhile, all that run hear each other: keys are rotated, the Secret
// is deleted, the controller starts with nothing in memory, speakers start, end and are
// cut off from the API server. And once nothing happens any more, one key is left.
func TestSpeakersHearEachOtherWhileKeysChange(t *testing.T) {
	rotations, bridges := 0, 0
	for seed := range uint64(150) {
		m := newModel(t, seed, 2+int(seed%4))
		for range 1500 {
			m.now = m.now.Add(time.Duration(m.r.IntN(400)) * time.Millisecond)
			s := m.speakers[m.r.IntN(len(m.speakers))]
			switch n := m.r.IntN(200); {
			case n < 60:
				m.turn(s)
			case n < 120:
				m.report(s)
			case n < 180:
				m.control()
			case n < 183:
				if m.is.Exists {
					m.is.Rotate = fmt.Sprint(m.now.UnixNano())
				}
			case n == 183:
				m.is = State{}
				m.say("secret deleted")
			case n == 184:
				m.rotation, m.last, m.texts = Rotation{}, nil, map[ID]Key{}
				m.say("controller restarted")
			case n < 188:
				if s.running {
					s.running, s.ring = false, Ring{}
					m.say("%s ends", s.node)
				}
			case n < 191:
				s.away = !s.away
				m.say("%s away %v", s.node, s.away)
			}
			m.hear()
		}
		for _, s := range m.speakers {
			s.away = false
		}
		for range 200 {
			m.now = m.now.Add(time.Second)
			m.control()
			for _, s := range m.speakers {
				m.turn(s)
				m.report(s)
				m.hear()
			}
		}
		if !m.settled() {
			t.Fatalf("seed %d: not settled; waits %v:\n%s", seed, m.verdict.Waits, strings.Join(m.history, "\n"))
		}
		for _, h := range m.history {
			if strings.Contains(h, "introduce") {
				rotations++
			}
			if strings.Contains(h, "bridge") {
				bridges++
			}
		}
	}
	if rotations < 300 || bridges < 20 {
		t.Errorf("only %d rotations and %d bridges", rotations, bridges)
	}
	t.Logf("%d rotations, %d lost Secrets", rotations, bridges)
}

// A key that a person writes in place of the one in use becomes the next one; whatever
// happens while no controller runs.
func TestAKeyThatIsWrittenByHandIsUsedOnceAllAcceptIt(t *testing.T) {
	for _, remembers := range []bool{true, false} {
		m := newModel(t, 1, 4)
		for range 30 {
			m.now = m.now.Add(time.Second)
			m.control()
			for _, s := range m.speakers {
				m.turn(s)
				m.report(s)
			}
		}
		byHand := m.newKey()
		m.write(State{Secret: Secret{Key: byHand}})
		if !remembers {
			m.rotation, m.last, m.texts = Rotation{}, nil, map[ID]Key{}
		}
		for range 60 {
			m.now = m.now.Add(time.Second)
			for i, s := range m.speakers {
				if i > 0 || m.now.Second()%5 == 0 { // One is late.
					m.turn(s)
				}
				m.report(s)
				m.hear()
			}
			m.control()
		}
		if !m.settled() || m.is.Key != byHand {
			t.Errorf("remembers %v: not settled on %v:\n%s", remembers, byHand, strings.Join(m.history, "\n"))
		}
		if back := slices.ContainsFunc(m.history, func(h string) bool { return strings.Contains(h, "regain") }); back != remembers {
			t.Errorf("remembers %v, regained %v:\n%s", remembers, back, strings.Join(m.history, "\n"))
		}
	}
}

// A speaker that comes back with a key that all others gave up takes theirs, and they do
// not take its.
func TestARetiredKeyDoesNotComeBack(t *testing.T) {
	old, now := Key{1}, Key{2}
	s := Secret{Key: now}
	var r Rotation
	use := Ring{Send: now}.Use("5")
	back := Follow(Ring{Send: old}, s)
	is := State{Exists: true, Version: "5", Secret: s, Known: []ID{old.ID(), now.ID()}}
	v := r.Decide(time.Unix(1, 0), is, []Speaker{{Node: "a", Use: use}, {Node: "b", Use: back.Use("5")}})
	if v.Step != Admit || !slices.Equal(v.Lost, []ID{old.ID()}) {
		t.Fatalf("%+v", v)
	}
	is = Apply(is, v, Key{9}, Key{})
	if is.Key != now {
		t.Fatalf("%+v", is)
	}
	if got := Follow(Ring{Send: now}, is.Secret); got != (Ring{Send: now}) {
		t.Errorf("others accept the retired key: %v", got)
	}
	if got := Follow(back, is.Secret); got != (Ring{now, old}) {
		t.Errorf("it does not follow: %v", got)
	}
}
