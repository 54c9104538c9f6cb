package main

import (
	"net/http/httptest"
	"testing"
)

func TestAnAnswerSaysWhoAnsweredAndWhoAsked(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:4711":       "node=node1 pod=web-0 client=192.0.2.7\n",
		"[2001:db8::7]:4711":   "node=node1 pod=web-0 client=2001:db8::7\n",
		"of no use, but still": "node=node1 pod=web-0 client=of no use, but still\n",
	} {
		r := httptest.NewRequest("GET", "/anything", nil)
		r.RemoteAddr = remote
		w := httptest.NewRecorder()
		handler("node1", "web-0").ServeHTTP(w, r)
		if got := w.Body.String(); got != want {
			t.Errorf("from %s: %q, want %q", remote, got, want)
		}
	}
}
