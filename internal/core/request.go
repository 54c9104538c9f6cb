package core

import (
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
)

// requestPause is the least time between the questions to two requests
// (docs/design/probe.md).
const requestPause = time.Second

// requests are a Core's part in asking its segments for what people want to know. One
// is answered at a time; of those that come meanwhile, the newest.
type requests struct {
	// newest is the text of the last one, and waiting is set until it is taken up.
	newest  string
	waiting bool
	// taken is the text of the one that is being answered; empty for none. Again is set
	// once its question was put a second time, as a station was not known at first.
	taken string
	again bool
	on    lb.Interface
	// notBefore is when the next may be taken up.
	notBefore time.Time
}

// Request asks for an address on its segment, as soon as may be. The View says what
// came of it. The same text twice in a row is one request.
func (c *Core) Request(text string) {
	if r := &c.requests; text != r.newest {
		r.newest, r.waiting = text, true
	}
}

// due returns when to take up what waits; zero for never.
func (r *requests) due() time.Time {
	if !r.waiting || r.taken != "" {
		return time.Time{}
	}
	return r.notBefore
}

// request takes up what waits.
func (c *Core) request(now time.Time) {
	r := &c.requests
	if !r.waiting || r.taken != "" || now.Before(r.notBefore) {
		return
	}
	r.waiting, r.notBefore = false, now.Add(requestPause)
	request, err := proof.ParseRequest(r.newest)
	if err != nil {
		c.respond(proof.Response{Request: r.newest, At: now, Problem: err.Error()})
		return
	}
	on, ok := proof.Segment(c.announcing(), request.Address)
	if !ok {
		c.respond(proof.Response{Request: r.newest, At: now, Problem: "no interface of this node can announce by layer 2"})
		return
	}
	if _, answers := claimOf(c.claims, request.Address); answers {
		// What others answer to its own question is not what a client heard.
		c.proofs.asked[request.Address] = now
	}
	r.taken, r.again, r.on = r.newest, false, on
	c.out.Prove = append(c.out.Prove, request.Question(on.Index))
}

// requested takes in what was heard.
func (c *Core) requested(now time.Time, q proof.Question, answers []proof.Answer, failed bool) {
	r := &c.requests
	if r.taken == "" {
		return
	}
	stranger := slices.ContainsFunc(answers, func(h proof.Answer) bool { _, known := c.neighbors.stations[h.MAC]; return !known })
	if stranger && !r.again {
		r.again = true // whose it is will be known when that is answered
		c.out.Prove = append(c.out.Prove, q)
		return
	}
	is := proof.Response{Request: r.taken, At: now, Interface: r.on.Name, Heard: proof.Respond(answers, c.whose)}
	if failed {
		is.Heard, is.Problem = nil, "the question could not be put on "+r.on.Name
	}
	r.taken = ""
	if c.proofs.prover != nil {
		c.proofs.prover.Recheck(now, q.Targets[0].Address) // whoever asks wants the condition to be true, too
	}
	c.respond(is)
}

// respond shows what came of a request.
func (c *Core) respond(is proof.Response) {
	c.view.Response = &is
	c.show()
}
