package problem

import "net/http"

// Slug is the last segment of a problem's type URI, the name that clients compare. Every slug has
// an entry in the table of this file.
type Slug string

// TypeBase is the prefix of a problem's type.
const TypeBase = "https://dopaminestore.dev/problems/"

// The slugs of the two APIs.
const (
	InvalidRequest       Slug = "invalid-request"
	AmountMismatch       Slug = "amount-mismatch"
	Unauthenticated      Slug = "unauthenticated"
	InvalidSignature     Slug = "invalid-signature"
	Forbidden            Slug = "forbidden"
	NotFound             Slug = "not-found"
	ProductNotFound      Slug = "product-not-found"
	SlotNotFound         Slug = "slot-not-found"
	PaymentNotFound      Slug = "payment-not-found"
	MethodNotAllowed     Slug = "method-not-allowed"
	SoldOut              Slug = "sold-out"
	DuplicateSlot        Slug = "duplicate-slot"
	SaleNotStarted       Slug = "sale-not-started"
	SaleEnded            Slug = "sale-ended"
	SalePaused           Slug = "sale-paused"
	ProductUpdate        Slug = "product-update-conflict"
	ProductDelete        Slug = "product-delete-conflict"
	SlotNotActive        Slug = "slot-not-active"
	SlotExpired          Slug = "slot-expired"
	SlotAlreadyCompleted Slug = "slot-already-completed"
	PaymentInProgress    Slug = "payment-in-progress"
	PreconditionFailed   Slug = "precondition-failed"
	TooManyPayments      Slug = "too-many-payments"
	PaymentNotPending    Slug = "payment-not-pending"
	PaymentNotRefundable Slug = "payment-not-refundable"
	RefundExceeds        Slug = "refund-exceeds-payment"
	NothingToResolve     Slug = "nothing-to-resolve"
	PayloadTooLarge      Slug = "payload-too-large"
	UnsupportedMediaType Slug = "unsupported-media-type"
	IdempotencyKeyReused Slug = "idempotency-key-reused"
	TooManyRequests      Slug = "too-many-requests"
	Internal             Slug = "internal"
	Unavailable          Slug = "unavailable"
	Overloaded           Slug = "overloaded"
	ReadModelBehind      Slug = "read-model-behind"
)

type kind struct {
	status int
	title  string
	// retryAfter is the Retry-After in seconds if the error does not set one.
	retryAfter int
	// head is the rendered beginning of the body, the same for all responses.
	head string
}

var table = map[Slug]*kind{
	InvalidRequest:       {status: http.StatusBadRequest, title: "The request is not valid"},
	AmountMismatch:       {status: http.StatusBadRequest, title: "The amount is not the product's price"},
	Unauthenticated:      {status: http.StatusUnauthorized, title: "A valid bearer token is needed"},
	InvalidSignature:     {status: http.StatusUnauthorized, title: "The signature is not valid"},
	Forbidden:            {status: http.StatusForbidden, title: "Not allowed"},
	NotFound:             {status: http.StatusNotFound, title: "No such path"},
	ProductNotFound:      {status: http.StatusNotFound, title: "No such product"},
	SlotNotFound:         {status: http.StatusNotFound, title: "No such slot"},
	PaymentNotFound:      {status: http.StatusNotFound, title: "No such payment"},
	MethodNotAllowed:     {status: http.StatusMethodNotAllowed, title: "The path does not take this method"},
	SoldOut:              {status: http.StatusConflict, title: "Sold out"},
	DuplicateSlot:        {status: http.StatusConflict, title: "The buyer already holds a slot of this product"},
	SaleNotStarted:       {status: http.StatusConflict, title: "The sale has not started"},
	SaleEnded:            {status: http.StatusConflict, title: "The sale has ended"},
	SalePaused:           {status: http.StatusConflict, title: "The sale is paused"},
	ProductUpdate:        {status: http.StatusConflict, title: "The product cannot be changed so"},
	ProductDelete:        {status: http.StatusConflict, title: "The product cannot be deleted"},
	SlotNotActive:        {status: http.StatusConflict, title: "The slot is not active"},
	SlotExpired:          {status: http.StatusConflict, title: "The slot has expired"},
	SlotAlreadyCompleted: {status: http.StatusConflict, title: "The slot has been paid already"},
	PaymentInProgress:    {status: http.StatusConflict, title: "A payment of the slot is in progress"},
	PreconditionFailed:   {status: http.StatusPreconditionFailed, title: "The resource has changed"},
	TooManyPayments:      {status: http.StatusConflict, title: "The slot has had too many payments"},
	PaymentNotPending:    {status: http.StatusConflict, title: "The payment is not pending"},
	PaymentNotRefundable: {status: http.StatusConflict, title: "The payment cannot be refunded"},
	RefundExceeds:        {status: http.StatusConflict, title: "The refund exceeds the payment"},
	NothingToResolve:     {status: http.StatusConflict, title: "Nothing to resolve"},
	PayloadTooLarge:      {status: http.StatusRequestEntityTooLarge, title: "The body is too large"},
	UnsupportedMediaType: {status: http.StatusUnsupportedMediaType, title: "The body must be application/json"},
	IdempotencyKeyReused: {status: http.StatusUnprocessableEntity, title: "The idempotency key was used with another body"},
	TooManyRequests:      {status: http.StatusTooManyRequests, title: "Too many requests", retryAfter: 1},
	Internal:             {status: http.StatusInternalServerError, title: "Internal error"},
	Unavailable:          {status: http.StatusServiceUnavailable, title: "Unavailable for the moment", retryAfter: 1},
	Overloaded:           {status: http.StatusServiceUnavailable, title: "Overloaded for the moment", retryAfter: 1},
	ReadModelBehind:      {status: http.StatusServiceUnavailable, title: "The read model has not caught up", retryAfter: 1},
}

func init() {
	for slug, k := range table {
		k.head = string(appendHead(nil, slug, k))
	}
}

// lookup returns internal for an unknown slug, so that a misspelt one is never shown.
func lookup(slug Slug) (Slug, *kind) {
	if k, ok := table[slug]; ok {
		return slug, k
	}
	return Internal, table[Internal]
}

// Slugs returns every slug of the table, in no order.
func Slugs() []Slug {
	slugs := make([]Slug, 0, len(table))
	for s := range table {
		slugs = append(slugs, s)
	}
	return slugs
}

// Status returns the HTTP status of the slug.
func (s Slug) Status() int {
	_, k := lookup(s)
	return k.status
}

// Title returns the slug's short, constant description.
func (s Slug) Title() string {
	_, k := lookup(s)
	return k.title
}
