package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An Answer is one answer to one of the prober's questions.
type Answer struct {
	At   time.Time
	MAC  net.HardwareAddr
	Host string
}

// A Question is one question of the prober, with all its answers.
type Question struct {
	At      time.Time
	Answers []Answer
}

// A Prober asks from the client, every few milliseconds, who has an address.
// Each question carries another sender address, so each answer is known to
// belong to its question and none is counted for another.
type Prober struct {
	network *Network
	address netip.Addr
	sock    *rawSocket
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu        sync.Mutex
	questions []Question
	failed    error
}

// probeSenders is how many sender addresses the prober uses in turn; an answer
// that is later than that many questions is not counted.
const probeSenders = 64

// probeSender is the sender of the nth question.
func probeSender(v6 bool, n int) netip.Addr {
	n %= probeSenders
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:51::7:%x", n))
	}
	return netip.AddrFrom4([4]byte{198, 51, 100, byte(128 + n)})
}

// Probe starts asking for an address every interval.
func (o *Observers) Probe(address netip.Addr, interval time.Duration) (*Prober, error) {
	sock, err := o.openRaw(Client)
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", address, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Prober{network: o.network, address: address, sock: sock, cancel: cancel}
	p.done.Go(func() { _ = sock.receive(p.received) })
	p.done.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for n := 0; ; n++ {
			p.mu.Lock()
			p.questions = append(p.questions, Question{At: time.Now()})
			p.mu.Unlock()
			if err := sock.send(question(addressesOf(Client).mac, probeSender(address.Is6(), n), address)); err != nil && !errors.Is(err, unix.ENETDOWN) {
				p.mu.Lock()
				p.failed = err
				p.mu.Unlock()
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return p, nil
}

// received counts a claim of the address as the answer to the question that
// its receiver asked last.
func (p *Prober) received(at time.Time, frame []byte) {
	c, ok := parseClaim(frame)
	if !ok || c.Address != p.address || !c.Kind.Answers() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.questions) - 1; i >= 0 && i > len(p.questions)-1-probeSenders; i-- {
		if probeSender(p.address.Is6(), i) == c.To {
			q := &p.questions[i]
			q.Answers = append(q.Answers, Answer{At: at, MAC: c.MAC, Host: p.network.HostOf(c.MAC)})
			return
		}
	}
}

// AwaitAnswer returns the host that answers, when one does.
func (p *Prober) AwaitAnswer(ctx context.Context, accept func(Answer) bool) (Answer, error) {
	var found Answer
	begun := time.Now()
	err := await(ctx, "wait for an answer for "+p.address.String(), func() error {
		report := p.Report()
		for _, q := range report.Questions {
			for _, a := range q.Answers {
				if a.At.After(begun) && accept(a) {
					found = a
					return nil
				}
			}
		}
		return errors.New(report.String())
	})
	return found, err
}

// settling is how long an answer may take to be read, on a machine that does
// too much at once; younger questions are not judged.
const settling = 200 * time.Millisecond

// Report tells what was seen so far. The last moment's questions are left out,
// as their answers may be on the way.
func (p *Prober) Report() Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := Report{Address: p.address, Err: p.failed}
	settled := time.Now().Add(-settling)
	for _, q := range p.questions {
		if q.At.After(settled) {
			break
		}
		q.Answers = slices.Clone(q.Answers)
		r.Questions = append(r.Questions, q)
	}
	return r
}

// Stop ends the asking, waits for the last answers, and reports.
func (p *Prober) Stop() Report {
	p.cancel()
	time.Sleep(settling + 10*time.Millisecond) // the last question's answers
	r := p.Report()
	p.sock.Close()
	p.done.Wait()
	return r
}

// A Report is what a prober has seen.
type Report struct {
	Address   netip.Addr
	Questions []Question
	// Err is why it could not go on asking.
	Err error
}

// Since leaves out the questions before a time.
func (r Report) Since(t time.Time) Report {
	i, _ := slices.BinarySearchFunc(r.Questions, t, func(q Question, t time.Time) int { return q.At.Compare(t) })
	r.Questions = r.Questions[i:]
	return r
}

// Hosts returns who answered, sorted.
func (r Report) Hosts() []string {
	var hosts []string
	for _, q := range r.Questions {
		for _, a := range q.Answers {
			hosts = append(hosts, a.Host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// Unanswered returns the questions that nobody answered.
func (r Report) Unanswered() []Question {
	var none []Question
	for _, q := range r.Questions {
		if len(q.Answers) == 0 {
			none = append(none, q)
		}
	}
	return none
}

// Contested returns the questions that more than one host answered.
func (r Report) Contested() []Question {
	var many []Question
	for _, q := range r.Questions {
		for _, a := range q.Answers {
			if a.Host != q.Answers[0].Host {
				many = append(many, q)
				break
			}
		}
	}
	return many
}

// LongestGap is the longest time between an answer and the next, or before
// the first or after the last, and when it began.
func (r Report) LongestGap() (time.Duration, time.Time) {
	if len(r.Questions) == 0 {
		return 0, time.Time{}
	}
	last := r.Questions[0].At
	var longest time.Duration
	var begun time.Time
	note := func(t time.Time) {
		if gap := t.Sub(last); gap > longest {
			longest, begun = gap, last
		}
		if t.After(last) {
			last = t
		}
	}
	for _, q := range r.Questions {
		for _, a := range q.Answers {
			note(a.At)
		}
	}
	note(r.Questions[len(r.Questions)-1].At)
	return longest, begun
}

// A Spell is a time in which the same hosts answered.
type Spell struct {
	From, To time.Time
	// Hosts are those that answered; empty means that nobody did.
	Hosts     []string
	Questions int
}

// Timeline joins questions with the same answerers.
func (r Report) Timeline() []Spell {
	var spells []Spell
	for _, q := range r.Questions {
		hosts := Report{Questions: []Question{q}}.Hosts()
		if n := len(spells); n > 0 && slices.Equal(spells[n-1].Hosts, hosts) {
			spells[n-1].To = q.At
			spells[n-1].Questions++
			continue
		}
		spells = append(spells, Spell{From: q.At, To: q.At, Hosts: hosts, Questions: 1})
	}
	return spells
}

// String is the timeline in lines.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "who answers for %s:", r.Address)
	if len(r.Questions) == 0 {
		b.WriteString(" not asked yet")
	}
	for _, s := range r.Timeline() {
		who := strings.Join(s.Hosts, " AND ")
		if who == "" {
			who = "nobody"
		}
		fmt.Fprintf(&b, "\n  %s to %s  %-8s (%d questions)", s.From.Format("15:04:05.000"), s.To.Format("15:04:05.000"), who, s.Questions)
	}
	if r.Err != nil {
		fmt.Fprintf(&b, "\n  %v", r.Err)
	}
	return b.String()
}

// question is an ARP request or a neighbor solicitation, as a whole frame.
func question(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	if target.Is4() {
		b := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1},
			mac, sender.AsSlice(), make([]byte, 6), target.AsSlice())
		return append(b, make([]byte, 60-len(b))...)
	}
	t := target.As16()
	group := netip.MustParseAddr("ff02::1:ff00:0").As16() // solicited-node (RFC 4291, 2.7.1)
	copy(group[13:], t[13:])
	icmp := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, t[:], []byte{1, 1}, mac)
	s := sender.As16()
	binary.BigEndian.PutUint16(icmp[2:], icmpChecksum(s, group, icmp))
	header := []byte{0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255}
	return slices.Concat([]byte{0x33, 0x33}, group[12:], mac, []byte{0x86, 0xdd}, header, s[:], group[:], icmp)
}

// icmpChecksum is the Internet checksum over the pseudo header and the message
// (RFC 4443, 2.3).
func icmpChecksum(from, to [16]byte, message []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i]) << 8
			if i+1 < len(b) {
				sum += uint32(b[i+1])
			}
		}
	}
	add(from[:])
	add(to[:])
	add(message)
	sum += uint32(len(message)) + unix.IPPROTO_ICMPV6
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

var macPattern = regexp.MustCompile(`(?i)\b[0-9a-f]{1,2}(:[0-9a-f]{1,2}){5}\b`)

// Resolve asks from the client who has an address, by the tools that people
// use: arping for IPv4, ndisc6 for IPv6. It returns the hardware addresses of
// all that answered, sorted, without repetition; none is no error.
func (o *Observers) Resolve(ctx context.Context, address netip.Addr) ([]net.HardwareAddr, error) {
	args := []string{"arping", "-b", "-c", "2", "-w", "3", "-I", NIC, address.String()}
	if address.Is6() {
		args = []string{"ndisc6", "-m", "-r", "1", "-w", "1000", address.String(), NIC}
	}
	out, err := o.network.Exec(ctx, Client, args...)
	var macs []net.HardwareAddr
	for _, text := range macPattern.FindAllString(out, -1) {
		var mac net.HardwareAddr
		for part := range strings.SplitSeq(text, ":") {
			var b byte
			if _, err := fmt.Sscanf(part, "%x", &b); err != nil {
				return nil, fmt.Errorf("%s printed the hardware address %q", args[0], text)
			}
			mac = append(mac, b)
		}
		macs = append(macs, mac)
	}
	slices.SortFunc(macs, func(a, b net.HardwareAddr) int { return slices.Compare(a, b) })
	macs = slices.CompactFunc(macs, func(a, b net.HardwareAddr) bool { return slices.Equal(a, b) })
	if len(macs) == 0 && err != nil && !silence(err, out) {
		return nil, err
	}
	return macs, nil
}

// silence reports whether a tool failed only because nobody answered: arping
// exits 1, ndisc6 exits 2 and prints "No response" or "Timed out".
func silence(err error, out string) bool {
	return strings.Contains(err.Error(), "exit status 1") && strings.Contains(out, "Received 0 response") ||
		strings.Contains(out, "Timed out") || strings.Contains(out, "No response")
}

// Resolvers is Resolve by the hosts' names.
func (o *Observers) Resolvers(ctx context.Context, address netip.Addr) ([]string, error) {
	macs, err := o.Resolve(ctx, address)
	var hosts []string
	for _, mac := range macs {
		hosts = append(hosts, o.network.HostOf(mac))
	}
	return hosts, err
}
