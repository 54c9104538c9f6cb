package link

import (
	"net/netip"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// Whoever hears of a claim after Set may stop answering: the very first question
// is answered already, also where no socket was open, and where one was whose
// filter knew nothing of the address. (However long the kernel takes: the bound on
// waiting for it is no concern of this test.)
func TestWhatIsSetIsAnsweredFromTheFirstQuestionOn(t *testing.T) {
	n := newLAN(t)
	l, _ := n.node.runLink(Options{}, func(l *Link) { l.hearing = time.Minute })
	index, them := n.node.index("eth0"), n.peer.mac("eth0")
	wire, frames := n.peer.tap("eth0")
	asker6 := netip.MustParseAddr("2001:db8::2")
	other := []layer2.Claim{{Address: netip.MustParseAddr("192.0.2.77"), Interfaces: []int{index}}, {Address: netip.MustParseAddr("2001:db8::77"), Interfaces: []int{index}}}
	for round := range 40 {
		for _, before := range [][]layer2.Claim{nil, other} {
			for _, c := range []struct {
				address  netip.Addr
				question []byte
			}{
				{vip4, requestARP(broadcast, them, peer4, vip4)},
				{vip6, solicitation(lb.MAC{}, them, asker6, vip6)},
			} {
				l.Set(before)
				drain(frames)
				l.Set(append(before[:len(before):len(before)], layer2.Claim{Address: c.address, Interfaces: []int{index}}))
				if err := wire.send(c.question); err != nil {
					t.Fatal(err)
				}
				answered := false
				for late := time.After(10 * time.Second); !answered; {
					select {
					case f := <-frames:
						answered = isAnswer(f)
					case <-late:
						t.Fatalf("round %d, with %d other claims: the first question for %v was not answered", round, len(before), c.address)
					}
				}
			}
		}
	}
}
