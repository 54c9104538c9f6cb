package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// floodEnv makes the test binary a station that floods its segment: with what, for how
// long, and whose or whom.
const floodEnv = "BELFRY_E2E_FLOOD"

// floodRate is how many packets a second a flood has, if the machine sends so many.
const floodRate = 100_000

// forged is from how many hardware addresses frames are sent.
const forged = 4096

// TestFlooder is no test: it is the station.
func TestFlooder(t *testing.T) {
	spec := strings.Fields(os.Getenv(floodEnv))
	if len(spec) == 0 {
		t.Skip("SKIPPED: this is a part of TestAFloodHoldsUpNoFailover")
	}
	var targets []netip.Addr
	for _, text := range spec[2:] {
		targets = append(targets, netip.MustParseAddr(text))
	}
	send := map[string]func(*testing.T, []netip.Addr) func(i int) error{"segment": segmentFlood, "gossip": gossipFlood}[spec[0]](t, targets)
	lasting, err := time.ParseDuration(spec[1])
	must(t, err)
	begun, sent := time.Now(), 0
	for time.Since(begun) < lasting {
		for due := int(time.Since(begun).Seconds() * floodRate); sent < due; sent++ {
			if err := send(sent); err != nil && err != syscall.ENOBUFS {
				t.Fatal(err)
			}
		}
	}
	fmt.Printf("sent %d frames in %v\n", sent, time.Since(begun).Round(time.Millisecond))
}

// segmentFlood asks for the targets and claims the last of them, by ARP and NDP, from many
// hardware addresses.
func segmentFlood(t *testing.T, targets []netip.Addr) func(i int) error {
	nic, err := net.InterfaceByName(lab.NIC)
	must(t, err)
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
	must(t, err)
	to := &syscall.SockaddrLinklayer{Ifindex: nic.Index}
	return func(i int) error {
		mac := [6]byte{2, 0xf1, 0, 0, byte(i % forged >> 8), byte(i % forged)}
		target := targets[i%len(targets)]
		claim := i%len(targets) == len(targets)-1
		if target.Is4() {
			return syscall.Sendto(fd, arpFrame(mac, target, claim), 0, to)
		}
		return syscall.Sendto(fd, nsFrame(mac, target), 0, to)
	}
}

// arpFrame is a request: of the address for itself, which claims it, or from another.
func arpFrame(mac [6]byte, target netip.Addr, claim bool) []byte {
	sender := netip.MustParseAddr("198.51.100.199")
	if claim {
		sender = target
	}
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(append(f, mac[:]...), sender.AsSlice()...)
	return append(append(f, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
}

// nsFrame is a Neighbor Solicitation to the solicited-node group.
func nsFrame(mac [6]byte, target netip.Addr) []byte {
	t := target.As16()
	source := netip.MustParseAddr("2001:db8:51::199").As16()
	group := [16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}
	body := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, t[:]...)
	body = append(append(body, 1, 1), mac[:]...)
	pseudo := append(append(append([]byte{}, source[:]...), group[:]...), 0, 0, 0, byte(len(body)), 0, 0, 0, 58)
	sum := uint32(0)
	for _, part := range [][]byte{pseudo, body} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(body[2:], ^uint16(sum>>16+sum&0xffff))
	f := append([]byte{0x33, 0x33, 0xff, t[13], t[14], t[15]}, mac[:]...)
	f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(body)), 58, 255)
	return append(append(append(f, source[:]...), group[:]...), body...)
}

// gossipFlood sends what nobody can decrypt to the port of gossip.
func gossipFlood(t *testing.T, targets []netip.Addr) func(i int) error {
	var to []*net.UDPConn
	for _, a := range targets {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 7870)))
		must(t, err)
		to = append(to, c)
	}
	packet := make([]byte, 200)
	return func(i int) error {
		binary.BigEndian.PutUint64(packet[20:], uint64(i)*0x9e3779b97f4a7c15)
		_, _ = to[i%len(to)].Write(packet) // A port that refuses is flooded all the same.
		return nil
	}
}

// spent returns the processor time of a node's speaker, and its memory in bytes.
func spent(t *testing.T, l *lab.Lab, node string) (time.Duration, int) {
	t.Helper()
	p, err := l.Processes.Process(lab.SpeakerOn(node))
	must(t, err)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	must(t, err)
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	user, err := strconv.Atoi(f[11])
	must(t, err)
	system, err := strconv.Atoi(f[12])
	must(t, err)
	pages, err := strconv.Atoi(f[21])
	must(t, err)
	return time.Duration(user+system) * 10 * time.Millisecond, pages * os.Getpagesize()
}

// A station floods the segment from 4,096 hardware addresses, or the port of gossip, by
// 100,000 packets a second or as many as it can send; the owner is killed in the middle, and another node answers soon.
func TestAFloodHoldsUpNoFailover(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "flooded")
	var nodes []string
	for _, n := range l.Network.Nodes() {
		v4, _ := l.Network.Addresses(n)
		nodes = append(nodes, v4.String())
	}
	var asked []string
	for _, a := range addresses {
		asked = append(asked, a.String())
	}
	for kind, targets := range map[string][]string{
		"segment": append(asked, "198.51.100.250"), // In the pool, and of no Service.
		"gossip":  nodes,
	} {
		t.Run(kind, func(t *testing.T) {
			settle(t, l)
			const lasting = 8 * time.Second
			p := probe(t, l, addresses[0])
			owner := answers(t, p, 10*time.Second, anybody)
			watched := others(l, owner)[0]
			idle, _ := spent(t, l, watched)
			rested := time.Now()
			goesOn(t, p, 200)
			resting := time.Since(rested)
			before, _ := spent(t, l, watched)
			flooded := time.Now()
			cmd := l.Network.Command(t.Context(), lab.Client, os.Args[0], "-test.run=^TestFlooder$", "-test.v")
			cmd.Env = append(os.Environ(), floodEnv+"="+kind+" "+lasting.String()+" "+strings.Join(targets, " "))
			out := &strings.Builder{}
			cmd.Stdout, cmd.Stderr = out, out
			must(t, cmd.Start())
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			goesOn(t, p, 200)
			killed := time.Now()
			must(t, kill(t.Context(), l, owner))
			t.Cleanup(func() { must(t, l.Processes.Restart(context.Background(), lab.SpeakerOn(owner))) })
			heir := answers(t, p, 10*time.Second, not(owner))
			goesOn(t, p, 50)
			if err := <-ended; err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			after, memory := spent(t, l, watched)
			r := p.Stop().Since(killed.Add(-100 * time.Millisecond))
			gap, _ := r.LongestGap()
			share := float64(after-before) / float64(time.Since(flooded))
			t.Logf("%s; %s killed: %s answers after %v; the speaker of %s used %.0f %% of a processor (%.1f %% before) and has %d MB",
				strings.TrimSpace(strings.SplitN(out.String()[strings.Index(out.String(), "sent"):], "\n", 2)[0]),
				owner, heir, gap.Round(time.Millisecond), watched, 100*share, 100*float64(before-idle)/float64(resting), memory>>20)
			if gap > budget {
				t.Errorf("%s without an answer, the budget is %s:\n%s", gap, budget, r)
			}
			if share > 1 {
				t.Errorf("the flood costs the speaker %.0f %% of a processor", 100*share)
			}
		})
	}
}
