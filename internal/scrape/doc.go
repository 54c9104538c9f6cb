// Package scrape serves metrics over HTTPS to whom the API server admits.
//
// A caller shows a bearer token. The API server is asked whose it is
// (TokenReview) and whether that user may get /metrics (SubjectAccessReview);
// there are no users, passwords or certificates of our own to keep. What it
// says is remembered for a while, so that a scraper costs two requests a minute
// however often it comes, and goes on working while the API server is away:
// that is when the figures are wanted most.
//
// Anybody who can reach the port may send anything, so everything is bounded:
// the connections, the size and duration of a request, how many answers are
// remembered, and how often the API server is asked. A caller over a bound is
// refused; callers whose access is remembered are not touched by that.
package scrape
