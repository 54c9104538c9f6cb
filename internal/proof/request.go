package proof

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Request is what somebody wants to know now: who answers for an address.
type Request struct{ Address netip.Addr }

// RequestMost bounds the text of a Request (docs/design/probe.md).
const RequestMost = 128

var errWords = errors.New("a request is an address and, after a blank, one word of yours, 128 characters in all")

// ParseRequest reads a request: an address and, after a blank, a word that tells it
// from an earlier one for the same address.
func ParseRequest(text string) (Request, error) {
	if len(text) > RequestMost {
		return Request{}, errWords
	}
	words := strings.Fields(text)
	if len(words) == 0 || len(words) > 2 {
		return Request{}, errWords
	}
	a, err := netip.ParseAddr(words[0])
	switch {
	case err != nil:
		return Request{}, fmt.Errorf("%q is no address", words[0])
	case a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
		return Request{}, fmt.Errorf("%v is no address that a station could answer for", a)
	}
	return Request{a.Unmap()}, nil
}

// requestWindow is how long answers to a Request are listened for after the last
// question (docs/design/probe.md).
const requestWindow = 300 * time.Millisecond

// Question returns what to ask for, from an interface.
func (r Request) Question(ifindex int) Question {
	return Question{Interface: ifindex, Targets: []Target{{r.Address, Throughout}}, Window: requestWindow, Requested: true}
}

// A Response is what came of a Request.
type Response struct {
	// Request is its text, as it was put.
	Request string
	At      time.Time
	// Interface is where the segment was asked, and Heard who answered, in the order in
	// which their answers came.
	Interface string
	Heard     []Heard
	// Problem says why the segment could not be asked; empty if it was.
	Problem string
}

// A Heard is a station that has answered, and how long after the question it did.
type Heard struct {
	Station
	After time.Duration
}

// Respond says what the answers to a question mean. Whose says of a station with an
// address whose it is.
func Respond(answers []Answer, whose func(lb.MAC, netip.Addr) (node string, voice Voice)) (out []Heard) {
	for _, h := range answers {
		node, voice := whose(h.MAC, h.Address)
		out = append(out, Heard{Station{h.MAC, node, voice}, h.After})
	}
	slices.SortStableFunc(out, func(a, b Heard) int { return cmp.Compare(a.After, b.After) })
	return out
}
