package scrape

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

// A Access is what the API server says of a token.
type Access uint8

// Kinds of access.
const (
	// Unknown: the token is no user's, or not any more.
	Unknown Access = iota
	// Forbidden: its user may not read the metrics.
	Forbidden
	// Allowed: its user may.
	Allowed
)

// String is the access as a word.
func (v Access) String() string {
	return [...]string{"Unknown", "Forbidden", "Allowed"}[v]
}

// A Review asks the API server about a token. An error means that there is no
// answer to be had.
type Review func(ctx context.Context, token string) (Access, error)

// docs/design/bounds.md has what untrusted input can cost.
const (
	// fresh is how long an answer is good. It bounds how long a user whose
	// right was taken away can go on reading.
	fresh = time.Minute
	// stale is how long Allowed is good when the API server does not answer.
	stale = 15 * time.Minute
	// remembered is how many answers are kept.
	remembered = 256
	// perSecond and burst bound the questions to the API server about tokens
	// that were not allowed when last seen, or never seen.
	perSecond, burst = 5, 20
	// patience bounds one question. It is less than a scraper waits, 10 s by
	// default, so that it gets its figures from a stale answer all the same.
	patience = 3 * time.Second
	// maxToken is the longest token that is looked at; those of ServiceAccounts
	// have about 1,000 bytes.
	maxToken = 8 << 10
)

// A Gate lets requests through whose bearer token is allowed.
type Gate struct {
	review  Review
	now     func() time.Time
	limit   *rate.Limiter
	flights singleflight.Group
	log     *slog.Logger

	mu    sync.Mutex
	known map[key]remark
}

// A key is the hash of a token: the tokens themselves are not kept.
type key [sha256.Size]byte

// A remark is an answer and when it was asked for.
type remark struct {
	access Access
	at     time.Time
}

// NewGate returns a gate that asks review.
func NewGate(review Review, log *slog.Logger) *Gate {
	return &Gate{review: review, now: time.Now, limit: rate.NewLimiter(perSecond, burst), log: log, known: map[key]remark{}}
}

// Guard passes to next what is allowed, and answers everything else itself.
func (g *Gate) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := g.judge(r)
		switch status {
		case http.StatusOK:
			next.ServeHTTP(w, r)
			return
		case http.StatusUnauthorized:
			w.Header().Set("WWW-Authenticate", `Bearer realm="metrics"`)
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, http.StatusText(status), status)
	})
}

// judge returns the status of the answer to a request; OK lets it through.
func (g *Gate) judge(r *http.Request) int {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return http.StatusUnauthorized
	}
	k := key(sha256.Sum256([]byte(token)))
	known, ok := g.recall(k)
	if !ok || g.now().Sub(known.at) >= fresh {
		if (!ok || known.access != Allowed) && !g.limit.Allow() {
			return http.StatusTooManyRequests
		}
		asked, err := g.ask(r.Context(), k, token)
		switch {
		case err == nil:
			known = asked
		case ok && known.access == Allowed && g.now().Sub(known.at) < stale:
			// Nobody says otherwise.
		default:
			g.log.Warn("cannot ask the API server who may read metrics", "err", err)
			return http.StatusServiceUnavailable
		}
	}
	switch known.access {
	case Allowed:
		return http.StatusOK
	case Forbidden:
		return http.StatusForbidden
	default:
		return http.StatusUnauthorized
	}
}

// ask has a token reviewed, once for all that wait for the same one, and
// remembers the access.
func (g *Gate) ask(ctx context.Context, k key, token string) (remark, error) {
	// The first to ask may go away; the others still want the answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	answer, err, _ := g.flights.Do(string(k[:]), func() (any, error) {
		at := g.now()
		if known, ok := g.recall(k); ok && at.Sub(known.at) < fresh {
			return known, nil // somebody has asked meanwhile
		}
		access, err := g.review(ctx, token)
		if err != nil {
			return remark{}, err
		}
		said := remark{access, at}
		g.remember(k, said)
		return said, nil
	})
	if err != nil {
		return remark{}, err
	}
	return answer.(remark), nil
}

func (g *Gate) recall(k key) (remark, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	known, ok := g.known[k]
	return known, ok
}

// remember keeps an answer. When there is no room the oldest goes, of those that
// are not Allowed if there are any: nobody without a valid token can push out
// one who has.
func (g *Gate) remember(k key, said remark) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.known[k]; !ok && len(g.known) >= remembered {
		var oldest key
		var worst remark
		found := false
		for other, r := range g.known {
			if !found || evicted(r, worst) {
				oldest, worst, found = other, r, true
			}
		}
		delete(g.known, oldest)
	}
	g.known[k] = said
}

// evicted reports whether a goes before b.
func evicted(a, b remark) bool {
	if (a.access == Allowed) != (b.access == Allowed) {
		return b.access == Allowed
	}
	return a.at.Before(b.at)
}
