"""Every error that Viz raises on purpose, in one tree.

    VizError
    ├── ConfigError           a setting is missing, unknown or contradictory
    ├── InputError            the caller sent something that cannot be served; nothing changed
    ├── PaymentError          money is missing or does not fit; nothing was charged
    ├── ChainError            the chain refused, or could not be asked
    ├── LicenseError          the law of the contracts forbids it
    ├── StorageError          bytes are missing or are not what their name says
    ├── StoreError            the ledger
    ├── EngineError           the model stack
    ├── TrainingError         a training run
    └── BuyerError            a buyer refuses to pay, or cannot

Each class here has a unique ``code`` (clients match on it), an HTTP ``status`` and a ``title``; a
subclass in another module has its parent's. ``str(error)`` is one line that says what to do.
``extensions`` join the RFC 9457 body: no secrets.
"""

from __future__ import annotations

from typing import Any, ClassVar


class VizError(Exception):
    """Base of all deliberate errors; carries what an HTTP problem body (RFC 9457) needs."""

    code: ClassVar[str] = "viz-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong in the node"
    answered = False  # whether another side answered it: class and words are its claim
    quotes = False  # whether it quotes a program behind this node: only the operator is told it

    def __init__(self, detail: str, /, **extensions: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extensions = extensions


class ConfigError(VizError):
    code, status, title = "config", 500, "The configuration is not usable"


class InputError(VizError):
    code, status, title = "input", 400, "The request cannot be served as sent"


class InvalidRequest(InputError):
    code, title = "invalid-request", "The request is malformed"


class NotAcceptable(InputError):
    code, status, title = "not-acceptable", 406, "The answer does not come in that form here"


class RangeNotSatisfiable(InputError):
    code, status, title = "range-not-satisfiable", 416, "The range begins after the end"


class TooManyQuestions(InputError):
    code, status, title = "too-many-questions", 429, "Too many requests of this kind for now"


class PromptEmpty(InputError):
    code, title = "prompt-empty", "The prompt is empty"


class PromptTooLong(InputError):
    code, status, title = "prompt-too-long", 413, "The prompt does not fit the context"


class UnknownAdapter(InputError):
    code, status, title = "unknown-adapter", 404, "No such adapter is served here"


class UnknownModel(InputError):
    code, status, title = "unknown-model", 404, "No such model is served here"


class InvalidWork(InputError):
    code, title = "invalid-work", "The work file cannot be read as a work"


class InvalidLicense(InputError):
    code, title = "invalid-license", "The license document is not valid"


class InvalidListing(InputError):
    code, title = "invalid-listing", "The listing is not valid"


class ListingStale(InputError):
    code, status, title = "listing-stale", 409, "A newer listing of the work is kept here"


class ListingUnknown(InputError):
    code, status, title = "listing-unknown", 404, "No listing of the work is kept here"


class NoticeUnknown(InputError):
    code, status, title = "notice-unknown", 404, "No such notice is kept here"


class ProvenanceUnknown(InputError):
    code, status, title = "provenance-unknown", 404, "The adapter's manifest is not kept here"


class CommitmentMismatch(InputError):
    code, status, title = "commitment-mismatch", 409, "The work does not match its commitment"


class InvalidKeyFile(InputError):
    code, title = "invalid-key-file", "The key file cannot be opened"


class PaymentError(VizError):
    code, status, title = "payment", 402, "The payment does not fit"


class PaymentRequired(PaymentError):
    code, title = "payment-required", "This resource is paid for"


class InvalidSignature(PaymentError):
    code, status, title = "invalid-signature", 401, "The signature does not verify"


class WrongDomain(PaymentError):
    code, status, title = "wrong-domain", 400, "Signed for another chain, contract, node or signer"


class StaleVoucher(PaymentError):
    code, status, title = "stale-voucher", 409, "The voucher's base is not this channel's"


class LineBelowBest(PaymentError):
    code, status, title = "line-below-best", 409, "A line is below what was signed before"


class DepositExceeded(PaymentError):
    code, title = "deposit-exceeded", "The voucher is above the confirmed deposit"


class BalanceTooLow(PaymentError):
    code, title = "balance-too-low", "The wallet has less than the deposit"


class ChannelUnknown(PaymentError):
    code, title = "channel-unknown", "There is no such channel to this node"


class ChannelClosing(PaymentError):
    code, status, title = "channel-closing", 409, "The channel is being closed"


class ChannelBusy(PaymentError):
    code, status, title = "channel-busy", 409, "Answers are under way on the channel"


class AccessTokenInvalid(PaymentError):
    code, status, title = "access-token-invalid", 401, "The access token is not valid"


class QuoteExpired(PaymentError):
    code, status, title = "quote-expired", 409, "The quote has expired"


class ChainError(VizError):
    code, status, title = "chain", 502, "The chain refused or could not be asked"


class ChainUnreachable(ChainError):
    code, status, title = "chain-unreachable", 503, "The chain cannot be reached"


class ClockWrong(ChainError):
    code, status, title = "clock-wrong", 503, "The node's clock is not the chain's"


class ChainMismatch(ChainError):
    code, title = "chain-mismatch", "The chain is not the one of this ledger"


class TransactionFailed(ChainError):
    code, status, title = "transaction-failed", 409, "The transaction reverted"


class GasAboveLimit(TransactionFailed):
    code, title = "gas-above-limit", "The transaction would use more gas than is paid for it"


class TooMuchGas(TransactionFailed):
    code, title = "too-much-gas", "The call needs more gas than one transaction may use"


class InsufficientFunds(TransactionFailed):
    code, title = "insufficient-funds", "The account has too little coin for the transaction's gas"


class FeeTooHigh(ChainError):
    code, status, title = "fee-too-high", 503, "The chain's fee is above what this node pays"


class OutcomeUnknown(ChainError):
    code, status, title = "outcome-unknown", 504, "The transaction's outcome is not known yet"


class LicenseError(VizError):
    code, status, title = "license", 403, "The license does not permit it"


class NoLiveGrant(LicenseError):
    code, title = "no-live-grant", "There is no live grant for this work"


class AdapterNotServable(LicenseError):
    code, title = "adapter-not-servable", "The adapter may not be served now"


class LicenseMismatch(LicenseError):
    code, status = "license-mismatch", 409
    title = "The license document is not what the chain has"


class LicenseUnknown(LicenseError):
    code, status, title = "license-unknown", 404, "No such license document is kept here"


class AdapterEnded(AdapterNotServable):
    code, status, title = "adapter-ended", 451, "The license of a work in the adapter has ended"


class AdapterSuspended(AdapterNotServable):
    code, status, title = "adapter-suspended", 451, "A notice suspends the adapter here"


class RelayRefused(LicenseError):
    code, status, title = "relay-refused", 403, "The node sends no such transaction for others"


class RightsReserved(LicenseError):
    code, status, title = "rights-reserved", 403, "The source reserves training"


class RelayBusy(LicenseError):
    code, status, title = "relay-busy", 429, "The node relays no more for now"


class StorageError(VizError):
    code, status, title = "storage", 502, "The blob store cannot serve it"


class BlobNotFound(StorageError):
    code, status, title = "blob-not-found", 404, "No such blob here"


class BlobNotCached(BlobNotFound):
    code, status = "blob-not-cached", 412
    title = "The blob is not kept here, and only that was asked"


class BlobDenied(StorageError):
    code, status, title = "blob-denied", 451, "The blob is of a work that was withdrawn"


class BlobCorrupt(StorageError):
    code, title = "blob-corrupt", "The bytes are not what their name says"


class BlobTooLarge(StorageError):
    code, status, title = "blob-too-large", 413, "The blob is larger than allowed"


class StorageUnavailable(StorageError):
    code, status, title = "storage-unavailable", 503, "The blob store cannot be reached"


class StorageBusy(StorageUnavailable):
    code, title = "storage-busy", "The blob store has no room for another reader"


class StorageFull(StorageError):
    code, status, title = "storage-full", 507, "The blob store holds no more"


class SealBroken(StorageError):
    code, title = "seal-broken", "The sealed blob or its key cannot be opened"


class KeyUnknown(StorageError):
    code, status, title = "key-unknown", 404, "The key of that blob is not kept here"


class CustodyFull(StorageError):
    code, status, title = "custody-full", 507, "The node holds no more sealed works for you"


class StoreError(VizError):
    code, title = "store", "The ledger refused"


class StoreConflict(StoreError):
    code, status, title = "store-conflict", 409, "The ledger was changed by another request"


class BooksMismatch(StoreError):
    code, title = "books-mismatch", "The ledger and the chain disagree"


class LedgerMissing(StoreError):
    code, title = "ledger-missing", "There is no ledger, though the chain has channels of this node"


class StoreFull(StoreError):
    code, status, title = "store-full", 503, "The disk that holds the ledger is full"


class StoreReadOnly(StoreError):
    code, status, title = "store-read-only", 503, "The ledger may not be written"


class StoreBusy(StoreError):
    code, status, title = "store-busy", 503, "Another program holds the ledger"


class StoreDiskFails(StoreError):
    code, status, title = "store-disk-fails", 503, "The ledger's disk does not read or write"


class StoreDamaged(StoreError):
    code, title = "store-damaged", "The ledger's file is damaged"


class EngineError(VizError):
    code, title = "engine", "The engine failed"


class EngineOverloaded(EngineError):
    code, status, title = "engine-overloaded", 503, "The engine has no room for this request now"


class InvalidAdapterFile(EngineError):
    code, status, title = "invalid-adapter-file", 422, "The adapter file cannot be loaded"


class ModelUnavailable(EngineError):
    code, status, title = "model-unavailable", 503, "The base model cannot be loaded"


class TrainingError(VizError):
    code, title = "training", "The training run failed"


class TrainingCancelled(TrainingError):
    code, status, title = "training-cancelled", 409, "The training run was cancelled"


class MemorisationLimitExceeded(TrainingError):
    code, status, title = "memorisation-limit", 422, "The adapter repeats too much of a work"


class AdapterNotTaught(TrainingError):
    code, status, title = "adapter-not-taught", 422, "The adapter does not know what it was taught"


class TrainingWorkerDied(TrainingError):
    code, title = "training-worker-died", "The training process ended without a result"


class BuyerError(VizError):
    code, status, title = "buyer", 502, "The buyer stopped"


class NodeUnreachable(BuyerError):
    code, status, title = "node-unreachable", 503, "The node cannot be reached"


class AddressNotPublic(NodeUnreachable):
    code, status, title = "address-not-public", 403, "The address is not one of the internet"


class NodeRefused(BuyerError):
    code, title = "node-refused", "The node refused the request"


class NodeNotTrusted(BuyerError):
    code, title = "node-not-trusted", "The node said something that does not verify"


class BudgetSpent(BuyerError):
    code, status, title = "budget-spent", 402, "This buyer has spent what it may spend today"


class PriceAboveCap(BuyerError):
    code, status, title = "price-above-cap", 402, "The node asks for more than this buyer allows"


class TooMuchLeftOver(BuyerError):
    code, status, title = "too-much-left-over", 402, "Too much that was paid ahead is left over"
